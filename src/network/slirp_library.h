// SPDX-License-Identifier: Apache-2.0
// libslirp, loaded when the first network in user space is made: a machine without one starts sooner and is smaller without it
// and GLib, which it brings.

#ifndef HVSDK_SRC_NETWORK_SLIRP_LIBRARY_H_
#define HVSDK_SRC_NETWORK_SLIRP_LIBRARY_H_

#include <slirp/libslirp.h>

#include "absl/status/statusor.h"

namespace hvsdk::network {

// Its functions, without the prefix.
struct SlirpLibrary {
  // Thread-safe; the library stays loaded. Unimplemented: it is not there, or lacks one of these.
  static absl::StatusOr<const SlirpLibrary*> Load();

  decltype(&::slirp_new) make;
  decltype(&::slirp_cleanup) cleanup;
  decltype(&::slirp_add_hostfwd) add_hostfwd;
  decltype(&::slirp_input) input;
  decltype(&::slirp_pollfds_fill) pollfds_fill;
  decltype(&::slirp_pollfds_poll) pollfds_poll;
  decltype(&::slirp_handle_timer) handle_timer;
};

}  // namespace hvsdk::network

#endif  // HVSDK_SRC_NETWORK_SLIRP_LIBRARY_H_
