// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/user_port.h"

namespace hvsdk::network {

absl::StatusOr<std::unique_ptr<NetworkPort>> CreateUserPort(os::EventLoop&, const UserPortOptions&) {
  return absl::UnimplementedError("this program was built without libslirp, which networks in user space need");
}

}  // namespace hvsdk::network
