// SPDX-License-Identifier: Apache-2.0
// The machine's Hyper-V sockets.

#ifndef HVSDK_SRC_MACHINE_SOCKET_PART_H_
#define HVSDK_SRC_MACHINE_SOCKET_PART_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/vsp/socket.h"

namespace hvsdk::machine {

class SocketPart final : public Part {
 public:
  explicit SocketPart(const vsp::SocketOptions& options) : options_(options) {}

  // Null before Attach and after Detach.
  vsp::SocketProvider* provider() const { return provider_.get(); }

  // Part
  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override { return {provider_.get()}; }
  // One that goes on from a saved state tells its guest that connections have ended.
  void Start() override { provider_->Resume(); }
  void Pause(absl::AnyInvocable<void()> done) override {
    provider_->Pause();
    done();
  }
  void Resume() override { provider_->Resume(); }
  void Stop(absl::AnyInvocable<void()> done) override {
    provider_->Stop();
    done();
  }
  void Detach() override { provider_.reset(); }

 private:
  const vsp::SocketOptions options_;
  std::unique_ptr<vsp::SocketProvider> provider_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_SOCKET_PART_H_
