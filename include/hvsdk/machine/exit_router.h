// SPDX-License-Identifier: Apache-2.0
// ExitRouter: who answers an exit. Layers stand above what answers in the end (the machine: its buses and the
// hypervisor interface); each overrides what it wants to see, answer or change, and passes the rest on. A machine
// without layers pays nothing for them: its processors call the bottom itself.
//
//   class DebugPort : public ExitLayer {
//    public:
//     void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override {
//       if (port == 0xE9) text.append(data.begin(), data.end());
//       next().OnPortWrite(vp, port, data);
//     }
//     std::string text;
//   };
//
// Thread class: Push and Remove are thread-safe; top() and the layers' functions are called on the VPs' threads,
// without a lock. A VP that is in the guest goes on with the layers it entered with, so Board::AddLayer and
// Board::RemoveLayer, which see to that, are what a machine's user calls.

#ifndef HVSDK_MACHINE_EXIT_ROUTER_H_
#define HVSDK_MACHINE_EXIT_ROUTER_H_

#include <atomic>
#include <cstdint>
#include <mutex>

#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::machine {

// An exit handler above another. By itself it passes everything on.
class ExitLayer : public backend::ExitHandler {
 public:
  void OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) override {
    next().OnPortRead(vp, port, data);
  }
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override {
    next().OnPortWrite(vp, port, data);
  }
  void OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override {
    next().OnMmioRead(vp, gpa, data);
  }
  void OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) override {
    next().OnMmioWrite(vp, gpa, data);
  }
  backend::MsrOutcome OnMsrRead(backend::Vp& vp, uint32_t msr, uint64_t& value) override {
    return next().OnMsrRead(vp, msr, value);
  }
  backend::MsrOutcome OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) override {
    return next().OnMsrWrite(vp, msr, value);
  }
  backend::HypercallOutcome OnHypercall(backend::Vp& vp) override { return next().OnHypercall(vp); }

 protected:
  // What stands below, while the layer is in a router.
  backend::ExitHandler& next() const { return *next_.load(std::memory_order_acquire); }

 private:
  friend class ExitRouter;
  std::atomic<backend::ExitHandler*> next_{nullptr};
};

class ExitRouter {
 public:
  // `bottom` answers what no layer does; it outlives the router.
  explicit ExitRouter(backend::ExitHandler& bottom) : bottom_(bottom), top_(&bottom) {}

  // The handler for Vp::Run. Looked at anew for each entry into the guest.
  backend::ExitHandler& top() const { return *top_.load(std::memory_order_acquire); }

  // Puts `layer`, which is in no router, above all others.
  void Push(ExitLayer& layer);
  // Takes it out, wherever it stands. A VP may still be inside until it has left Vp::Run. Nothing if it is not there.
  void Remove(ExitLayer& layer);

 private:
  backend::ExitHandler& bottom_;
  std::mutex mutex_;  // serialises changes
  std::atomic<backend::ExitHandler*> top_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_EXIT_ROUTER_H_
