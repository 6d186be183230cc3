// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/key_value_exchange.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "vsp/integration_requests.h"
#include "vsp/wire_text.h"

namespace hvsdk::vsp {

namespace wire = hvdef::key_value;
using hvdef::integration::Status;

namespace {

constexpr IntegrationChannel::Protocol kProtocol = {
    .class_id = hvdef::class_id::kKeyValuePair,
    .instance_id = hvdef::MakeGuid("242ff919-07db-4180-9c2e-b86cb68c8c55"),
    .type = hvdef::integration::MessageType::kKeyValuePair,
    .versions = wire::kVersions,
};

struct KeyValueState {
  static constexpr uint32_t kSchema = 1;
  IntegrationChannel::State channel;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "channel", channel);
  }
};

absl::Status NonsenseError() { return absl::DataLossError("the guest's answer makes no sense"); }

// False: the guest says more than there is room for.
bool TakeText(const uint8_t* field, size_t field_bytes, uint32_t size_bytes, std::string& text) {
  if (size_bytes > field_bytes) return false;
  text = internal::FromUtf16({field, size_bytes});
  return true;
}

absl::StatusOr<std::string> TextOfValue(const wire::Value& value) {
  std::string text;
  uint32_t number32;
  uint64_t number64;
  switch (value.type) {
    case wire::ValueType::kText:
    case wire::ValueType::kExpandText:
      if (!TakeText(value.value, sizeof(value.value), value.value_bytes, text)) return NonsenseError();
      return text;
    case wire::ValueType::kNumber32:
      std::memcpy(&number32, value.value, sizeof(number32));
      return absl::StrCat(number32);
    case wire::ValueType::kNumber64:
      std::memcpy(&number64, value.value, sizeof(number64));
      return absl::StrCat(number64);
  }
  return NonsenseError();
}

absl::Status PutKey(absl::string_view key, uint8_t (&field)[wire::kMaxKeyBytes], uint32_t& size_bytes) {
  if (key.empty()) return absl::InvalidArgumentError("the key is empty");
  return PutText("key", key, field, &size_bytes);
}

// A message that the guest fills in or acknowledges.
template <typename Message>
class Exchange final : public IntegrationRequests::Operation {
 public:
  using Answered = absl::AnyInvocable<void(absl::StatusOr<Message>)>;
  Exchange(const Message& message, Answered done) : message_(message), done_(std::move(done)) {}

  uint32_t Write(absl::Span<uint8_t> body) override {
    std::memcpy(body.data(), &message_, sizeof(message_));
    return sizeof(message_);
  }
  bool OnAnswer(Status status, absl::Span<const uint8_t> body) override {
    if (status != Status::kOk) return done_(GuestStatus(status)), true;
    if (body.size() < sizeof(message_)) return done_(NonsenseError()), true;
    std::memcpy(&message_, body.data(), sizeof(message_));
    return done_(message_), true;
  }
  void Fail(const absl::Status& status) override { done_(status); }

 private:
  Message message_;
  Answered done_;
};

class Enumeration final : public IntegrationRequests::Operation {
 public:
  Enumeration(KeyValuePool pool, const KeyValueRange& range, KeyValueExchange::Listed done)
      : most_(range.most), done_(std::move(done)) {
    message_.header = {.operation = wire::Operation::kEnumerate, .pool = pool};
    message_.index = range.first;
  }

  uint32_t Write(absl::Span<uint8_t> body) override {
    std::memcpy(body.data(), &message_, sizeof(message_));
    return sizeof(message_);
  }
  bool OnAnswer(Status status, absl::Span<const uint8_t> body) override {
    if (status == Status::kNoMoreItems) return done_(std::move(pairs_)), true;
    if (status != Status::kOk) return done_(GuestStatus(status)), true;
    wire::IndexedPair answer;
    KeyValue pair;
    if (body.size() < sizeof(answer)) return done_(NonsenseError()), true;
    std::memcpy(&answer, body.data(), sizeof(answer));
    auto value = TextOfValue(answer.value);
    if (!value.ok() || !TakeText(answer.value.key, sizeof(answer.value.key), answer.value.key_bytes, pair.key)) {
      return done_(NonsenseError()), true;
    }
    if (message_.index >= KeyValueExchange::kMaxPairs) {
      return done_(absl::ResourceExhaustedError(
                 absl::StrCat("the guest has more than ", KeyValueExchange::kMaxPairs, " pairs"))),
             true;
    }
    pair.value = *std::move(value);
    pairs_.push_back(std::move(pair));
    ++message_.index;
    if (pairs_.size() == most_) return done_(std::move(pairs_)), true;
    return false;
  }
  void Fail(const absl::Status& status) override { done_(status); }

 private:
  const size_t most_;  // 0: all
  wire::IndexedPair message_{};
  std::vector<KeyValue> pairs_;
  KeyValueExchange::Listed done_;
};

template <size_t kSize>
std::vector<std::string> TakeList(const uint8_t (&field)[kSize]) {
  return absl::StrSplit(internal::FromUtf16(field), ';', absl::SkipWhitespace());
}

GuestAddresses FromWire(const wire::Addresses& from) {
  return {.adapter_id = internal::FromUtf16(from.adapter_id),
          .has_ipv4 = (from.family & wire::kFamilyIpv4) != 0,
          .has_ipv6 = (from.family & wire::kFamilyIpv6) != 0,
          .dhcp = from.dhcp != 0,
          .addresses = TakeList(from.addresses),
          .subnets = TakeList(from.subnets),
          .gateways = TakeList(from.gateways),
          .name_servers = TakeList(from.name_servers)};
}

absl::StatusOr<wire::Addresses> ToWire(const GuestAddresses& from, wire::Operation operation) {
  wire::Addresses to{};
  to.operation = operation;
  to.family = static_cast<uint8_t>((from.has_ipv4 ? wire::kFamilyIpv4 : 0) | (from.has_ipv6 ? wire::kFamilyIpv6 : 0));
  to.dhcp = from.dhcp;
  RETURN_IF_ERROR(PutText("adapter's id", from.adapter_id, to.adapter_id));
  RETURN_IF_ERROR(PutText("list of addresses", absl::StrJoin(from.addresses, ";"), to.addresses));
  RETURN_IF_ERROR(PutText("list of subnets", absl::StrJoin(from.subnets, ";"), to.subnets));
  RETURN_IF_ERROR(PutText("list of gateways", absl::StrJoin(from.gateways, ";"), to.gateways));
  RETURN_IF_ERROR(PutText("list of name servers", absl::StrJoin(from.name_servers, ";"), to.name_servers));
  return to;
}

}  // namespace

absl::string_view TextOf(KeyValuePool pool) {
  constexpr absl::string_view kTexts[] = {"external", "guest", "auto", "auto-external", "auto-internal"};
  static_assert(std::size(kTexts) == wire::kPools);
  return kTexts[static_cast<size_t>(pool)];
}

class KeyValueExchange::Core {
 public:
  Core(const IntegrationResources& resources, const KeyValueExchangeOptions& options)
      : requests_(kProtocol, resources, options.answer_within) {}

  template <typename Message>
  void Ask(const absl::StatusOr<Message>& message, typename Exchange<Message>::Answered done) {
    if (!message.ok()) return done(message.status());
    requests_.Submit(std::make_unique<Exchange<Message>>(*message, std::move(done)));
  }
  // Also whether the driver knows of addresses at all, once there is one.
  absl::StatusOr<wire::Addresses> MakeAddresses(const GuestAddresses& addresses, wire::Operation operation) {
    RETURN_IF_ERROR(requests_.CheckReady());
    if (requests_.version() < wire::kAddressVersion) {
      return absl::UnimplementedError(absl::StrCat("the guest's driver speaks version ", requests_.version().major, ".",
                                                   requests_.version().minor, ", which has no addresses"));
    }
    return ToWire(addresses, operation);
  }

  IntegrationRequests requests_;
};

absl::StatusOr<std::unique_ptr<KeyValueExchange>> KeyValueExchange::Create(vmbus::Server& server,
                                                                           const IntegrationResources& resources,
                                                                           const KeyValueExchangeOptions& options) {
  auto core = std::make_unique<Core>(resources, options);
  RETURN_IF_ERROR(core->requests_.Offer(server, resources.executor));
  return std::unique_ptr<KeyValueExchange>(new KeyValueExchange(std::move(core)));
}

KeyValueExchange::KeyValueExchange(std::unique_ptr<Core> core) : core_(std::move(core)) {}
KeyValueExchange::~KeyValueExchange() = default;

void KeyValueExchange::Get(KeyValuePool pool, absl::string_view key, Got done) {
  const auto make = [&]() -> absl::StatusOr<wire::Pair> {
    wire::Pair pair{};
    pair.header = {.operation = wire::Operation::kGet, .pool = pool};
    pair.value.type = wire::ValueType::kText;
    RETURN_IF_ERROR(PutKey(key, pair.value.key, pair.value.key_bytes));
    return pair;
  };
  core_->Ask<wire::Pair>(make(), [done = std::move(done)](const absl::StatusOr<wire::Pair>& pair) mutable {
    done(pair.ok() ? TextOfValue(pair->value) : pair.status());
  });
}

void KeyValueExchange::Set(KeyValuePool pool, absl::string_view key, absl::string_view value, Done done) {
  const auto make = [&]() -> absl::StatusOr<wire::Pair> {
    wire::Pair pair{};
    pair.header = {.operation = wire::Operation::kSet, .pool = pool};
    pair.value.type = wire::ValueType::kText;
    RETURN_IF_ERROR(PutKey(key, pair.value.key, pair.value.key_bytes));
    RETURN_IF_ERROR(PutText("value", value, pair.value.value, &pair.value.value_bytes));
    return pair;
  };
  core_->Ask<wire::Pair>(
      make(), [done = std::move(done)](const absl::StatusOr<wire::Pair>& pair) mutable { done(pair.status()); });
}

void KeyValueExchange::Delete(KeyValuePool pool, absl::string_view key, Done done) {
  const auto make = [&]() -> absl::StatusOr<wire::Key> {
    wire::Key message{};
    message.header = {.operation = wire::Operation::kDelete, .pool = pool};
    RETURN_IF_ERROR(PutKey(key, message.key, message.key_bytes));
    return message;
  };
  core_->Ask<wire::Key>(
      make(), [done = std::move(done)](const absl::StatusOr<wire::Key>& message) mutable { done(message.status()); });
}

void KeyValueExchange::List(KeyValuePool pool, Listed done, const KeyValueRange& range) {
  core_->requests_.Submit(std::make_unique<Enumeration>(pool, range, std::move(done)));
}

void KeyValueExchange::GetAddresses(absl::string_view adapter_id, GotAddresses done) {
  core_->Ask<wire::Addresses>(
      core_->MakeAddresses({.adapter_id = std::string(adapter_id), .has_ipv4 = true, .has_ipv6 = true},
                           wire::Operation::kGetAddresses),
      [done = std::move(done)](const absl::StatusOr<wire::Addresses>& answer) mutable {
        if (!answer.ok()) return done(answer.status());
        done(FromWire(*answer));
      });
}

void KeyValueExchange::SetAddresses(const GuestAddresses& addresses, Done done) {
  core_->Ask<wire::Addresses>(
      core_->MakeAddresses(addresses, wire::Operation::kSetAddresses),
      [done = std::move(done)](const absl::StatusOr<wire::Addresses>& answer) mutable { done(answer.status()); });
}

void KeyValueExchange::Pause() { core_->requests_.Pause(); }
void KeyValueExchange::Resume() { core_->requests_.Resume(); }

absl::Status KeyValueExchange::Save(state::StateWriter& writer) const {
  KeyValueState state{.channel = core_->requests_.state()};
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status KeyValueExchange::Restore(state::StateReader& reader) {
  KeyValueState state;
  RETURN_IF_ERROR(reader.Read(state));
  RETURN_IF_ERROR(core_->requests_.Check(state.channel, reader));
  core_->requests_.Restore(state.channel, nullptr, false);
  return absl::OkStatus();
}

void KeyValueExchange::Reset() { core_->requests_.Reset(); }

}  // namespace hvsdk::vsp
