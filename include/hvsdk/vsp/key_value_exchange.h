// SPDX-License-Identifier: Apache-2.0
// KeyValueExchange: the integration component by which the host asks a guest about itself and tells it things, by name: key-value pairs in
// pools, and the addresses of its network adapters.
//
// Texts are UTF-8 here. Limits: 255 units of UTF-16 a key, 1023 a value; Linux keeps keys of up to 511 bytes of UTF-8. What a guest answers may be
// anything: a text that is none has U+FFFD in it, and one that is longer than it can be is an error of that request.
//
// Thread class: the executor. Source: hvdef/key_value.h.
//
//   const auto pairs = vsp::KeyValueExchange::Create(server, {.executor = loop, .timers = timers, .clock = clock}, {});
//   if (!pairs.ok()) return pairs.status();
//   (*pairs)->Set(vsp::KeyValuePool::kExternal, "Role", "database", [](const absl::Status& status) { Tell(status); });

#ifndef HVSDK_VSP_KEY_VALUE_EXCHANGE_H_
#define HVSDK_VSP_KEY_VALUE_EXCHANGE_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/hvdef/key_value.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::vsp {

using KeyValuePool = hvdef::key_value::Pool;

// "external", "guest", "auto", "auto-external", "auto-internal".
absl::string_view TextOf(KeyValuePool pool);

struct KeyValue {
  std::string key, value;
};

// Of a network adapter.
struct GuestAddresses {
  std::string adapter_id;
  bool has_ipv4 = false, has_ipv6 = false, dhcp = false;
  // Subnets are masks for IPv4, and for IPv6 as in "/64".
  std::vector<std::string> addresses, subnets, gateways, name_servers;
};

// Part of a pool, whose pairs count from 0.
struct KeyValueRange {
  uint32_t first = 0;
  uint32_t most = 0;  // 0: all that follow
};

struct KeyValueExchangeOptions {
  std::chrono::milliseconds answer_within{10'000};  // each request
};

class KeyValueExchange : public IntegrationComponent {
 public:
  static constexpr size_t kMaxPairs = 1024;  // of a pool that are listed

  // As vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<KeyValueExchange>> Create(vmbus::Server& server,
                                                                  const IntegrationResources& resources,
                                                                  const KeyValueExchangeOptions& options);
  // Takes it off the bus. On the executor, or on any thread once that has stopped for good.
  ~KeyValueExchange() override;

  // Each callback is called once, here or later on the executor, and must not destroy this. NotFound: the guest has no such key.
  // FailedPrecondition: it fails, has no driver or service for it, or has not answered an earlier request. Unimplemented: it does not support it.
  // DeadlineExceeded: it did not answer. DataLoss: its answer makes no sense. InvalidArgument: the key or value is too long, empty or no UTF-8.
  // ResourceExhausted: a list without end, or too many requests at once. Cancelled: the machine was reset or goes.
  using Done = absl::AnyInvocable<void(const absl::Status&)>;
  using Got = absl::AnyInvocable<void(absl::StatusOr<std::string>)>;
  using Listed = absl::AnyInvocable<void(absl::StatusOr<std::vector<KeyValue>>)>;
  using GotAddresses = absl::AnyInvocable<void(absl::StatusOr<GuestAddresses>)>;
  // Linux' daemon answers Get with an empty text, whatever there is; what it has, List has.
  void Get(KeyValuePool pool, absl::string_view key, Got done);
  void Set(KeyValuePool pool, absl::string_view key, absl::string_view value, Done done);
  void Delete(KeyValuePool pool, absl::string_view key, Done done);
  void List(KeyValuePool pool, Listed done, const KeyValueRange& range = {});
  // Linux knows an adapter by its MAC address in capitals, as in "00:15:5D:01:02:03", when it is asked for addresses, and by its device's GUID, as
  // in "{01234567-89ab-cdef-0123-456789abcdef}", when it is told them.
  void GetAddresses(absl::string_view adapter_id, GotAddresses done);
  void SetAddresses(const GuestAddresses& addresses, Done done);

  // While the guest does not run it is asked nothing; a request waits, and so does its time.
  void Pause() override;
  void Resume() override;

  // state::Component, while paused; restored before vmbus::Server. Requests are not saved.
  std::string StateName() const override { return "integration/key-value"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit KeyValueExchange(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_KEY_VALUE_EXCHANGE_H_
