// SPDX-License-Identifier: Apache-2.0
#include "vmm/guest_requests.h"

#include <arpa/inet.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "hvsdk/boot/byte_source.h"

namespace hvsdk::vmm {

using vsp::KeyValuePool;

namespace {

// What a client takes, with room for what stands around it.
constexpr size_t kMaxReplyBytes = kMaxControlReplies - (16 << 10);
// A pair has three bytes at most for each unit of UTF-16, and its pool's name and the numbers of fields and lengths.
constexpr size_t kMaxPairBytes = (hvdef::key_value::kMaxKeyBytes + hvdef::key_value::kMaxValueBytes) / 2 * 3 + 64;
constexpr uint32_t kPairsPerReply = kMaxReplyBytes / kMaxPairBytes;
// A place in a list of several pools: each takes so many, the last of which is its end.
constexpr uint32_t kPlacesPerPool = vsp::KeyValueExchange::kMaxPairs + 1;
// Of a copy; more often nobody looks.
constexpr uint64_t kProgressBytes = 1 << 20;

constexpr KeyValuePool kPools[] = {KeyValuePool::kExternal, KeyValuePool::kGuest, KeyValuePool::kAuto,
                                   KeyValuePool::kAutoExternal, KeyValuePool::kAutoInternal};
// The last is never exchanged between host and guest, unless it is asked for.
constexpr size_t kExchangedPools = 4;

// Asks for one list after another, until all are there, no more fits a reply, or one is not to be had.
class Collection : public std::enable_shared_from_this<Collection> {
 public:
  Collection(vsp::KeyValueExchange& guest, ControlHandler::Reply reply) : guest_(guest), reply_(std::move(reply)) {
    values();
  }

  void List(std::vector<KeyValuePool> pools, uint32_t from) {
    pools_ = std::move(pools);
    next_ = from / kPlacesPerPool;
    next_pair_ = from % kPlacesPerPool;
    if (next_ >= pools_.size()) {
      return reply_(ReplyOf(absl::InvalidArgumentError("kvp: from: the list has no such place")));
    }
    NextPool();
  }
  void GetAddresses(std::vector<std::string> adapters) {
    adapters_ = std::move(adapters);
    NextAdapter();
  }

 private:
  KeyValues& values() { return *answer_.mutable_key_values(); }

  void NextPool() {
    if (next_ == pools_.size()) return Finish();
    const KeyValuePool pool = pools_[next_];
    const uint32_t room = kPairsPerReply - static_cast<uint32_t>(values().pairs_size());
    const auto listed = [self = shared_from_this(), pool](absl::StatusOr<std::vector<vsp::KeyValue>> pairs) {
      if (!pairs.ok()) return self->reply_(ReplyOf(ErrorOf("kvp", pairs.status())));
      for (vsp::KeyValue& pair : *pairs) {
        KeyValue& added = *self->values().add_pairs();
        added.set_pool(std::string(vsp::TextOf(pool)));
        added.set_key(std::move(pair.key));
        added.set_value(std::move(pair.value));
      }
      self->next_pair_ += static_cast<uint32_t>(pairs->size());
      if (self->values().pairs_size() == kPairsPerReply) {
        self->answer_.set_next_pair(static_cast<uint32_t>(self->next_) * kPlacesPerPool + self->next_pair_);
        return self->Finish();
      }
      ++self->next_;
      self->next_pair_ = 0;
      self->NextPool();
    };
    guest_.List(pool, listed, {.first = next_pair_, .most = room});
  }
  void NextAdapter() {
    if (next_ == adapters_.size()) return Finish();
    const std::string& adapter = adapters_[next_++];
    guest_.GetAddresses(adapter, [self = shared_from_this(), adapter](absl::StatusOr<vsp::GuestAddresses> found) {
      if (!found.ok()) {
        return self->reply_(ReplyOf(ErrorOf(absl::StrCat("kvp: ", absl::CHexEscape(adapter)), found.status())));
      }
      AdapterAddresses& added = *self->values().add_adapters();
      added.set_adapter(adapter);
      added.set_dhcp(found->dhcp);
      const auto put = [](std::vector<std::string>& from, auto& to) {
        for (std::string& each : from) *to.Add() = std::move(each);
      };
      put(found->addresses, *added.mutable_addresses());
      put(found->subnets, *added.mutable_subnets());
      put(found->gateways, *added.mutable_gateways());
      put(found->name_servers, *added.mutable_name_servers());
      self->NextAdapter();
    });
  }
  void Finish() {
    if (answer_.ByteSizeLong() > kMaxReplyBytes) {
      return reply_(ReplyOf(absl::ResourceExhaustedError("kvp: the guest has more than fits an answer")));
    }
    reply_(std::move(answer_));
  }

  vsp::KeyValueExchange& guest_;
  ControlHandler::Reply reply_;
  ControlReply answer_;
  std::vector<KeyValuePool> pools_;
  std::vector<std::string> adapters_;
  size_t next_ = 0;         // of the pools or the adapters
  uint32_t next_pair_ = 0;  // of that pool
};

// What Linux knows an adapter by is its MAC address, in capitals, when it is asked for addresses, and its device's GUID when it is told them.
std::string IdToAsk(const NetworkStatus& network) { return absl::AsciiStrToUpper(network.mac()); }
std::string IdToTell(const NetworkStatus& network) { return absl::StrCat("{", network.id(), "}"); }

// Of the adapter that is called so; what is none of the machine's stays as it is.
template <typename IdOf>
std::string FindId(const std::vector<NetworkStatus>& networks, const std::string& called, IdOf id_of) {
  for (const NetworkStatus& network : networks) {
    if (called == network.device() || called == network.name() || absl::EqualsIgnoreCase(called, network.mac())) {
      return id_of(network);
    }
  }
  return called;
}

struct IpAddress {
  int family = AF_UNSPEC;  // of none
  size_t bits = 0;
};

IpAddress ParseIp(const std::string& text) {
  uint8_t bytes[16];
  if (inet_pton(AF_INET, text.c_str(), bytes) == 1) return {.family = AF_INET, .bits = 32};
  if (inet_pton(AF_INET6, text.c_str(), bytes) == 1) return {.family = AF_INET6, .bits = 128};
  return {};
}

absl::Status AddAddress(const std::string& text, vsp::GuestAddresses& to) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('/', 1));
  const IpAddress address = ParseIp(parts.first);
  uint32_t prefix = 0;
  const bool is_number = !parts.second.empty() && parts.second.size() <= 3 &&
                         absl::c_all_of(parts.second, absl::ascii_isdigit) && absl::SimpleAtoi(parts.second, &prefix);
  if (address.family == AF_UNSPEC || !is_number || prefix > address.bits) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", absl::CHexEscape(text),
                     "\" is no address with the length of its prefix, as in 10.1.1.5/24 or fd00::5/64"));
  }
  to.addresses.push_back(parts.first);
  if (address.family == AF_INET6) {
    to.has_ipv6 = true;
    to.subnets.push_back(absl::StrCat("/", prefix));
    return absl::OkStatus();
  }
  to.has_ipv4 = true;
  const uint32_t mask = prefix == 0 ? 0 : ~uint32_t{0} << (32 - prefix);
  to.subnets.push_back(absl::StrCat(mask >> 24, ".", mask >> 16 & 0xFF, ".", mask >> 8 & 0xFF, ".", mask & 0xFF));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<vsp::GuestAddresses> ParseGuestAddresses(const AdapterAddresses& addresses) {
  vsp::GuestAddresses to;
  if (addresses.dhcp()) {
    if (addresses.addresses_size() + addresses.gateways_size() + addresses.name_servers_size() != 0) {
      return absl::InvalidArgumentError("by DHCP there are no addresses of one's own");
    }
    to.dhcp = to.has_ipv4 = true;
    return to;
  }
  if (addresses.addresses().empty()) return absl::InvalidArgumentError("an address is needed");
  for (const std::string& address : addresses.addresses()) RETURN_IF_ERROR(AddAddress(address, to));
  const auto take = [](const auto& from, std::vector<std::string>& to) -> absl::Status {
    for (const std::string& each : from) {
      if (ParseIp(each).family == AF_UNSPEC) {
        return absl::InvalidArgumentError(
            absl::StrCat("\"", absl::CHexEscape(each), "\" is no address, as 10.1.1.1 and fd00::1 are"));
      }
      to.push_back(each);
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(take(addresses.gateways(), to.gateways));
  RETURN_IF_ERROR(take(addresses.name_servers(), to.name_servers));
  return to;
}

absl::Status ErrorOf(absl::string_view command, const absl::Status& status) {
  return status.ok() ? status : absl::Status(status.code(), absl::StrCat(command, ": ", status.message()));
}

ControlReply ReplyOf(const absl::Status& status) {
  ControlReply reply;
  reply.set_code(static_cast<uint32_t>(status.code()));
  reply.set_error(std::string(status.message()));
  return reply;
}

void AskKeyValue(machine::Machine& machine, const KeyValueRequest& request, const std::vector<NetworkStatus>& networks,
                 ControlHandler::Reply reply) {
  vsp::KeyValueExchange* const guest = machine.integration().key_value;
  if (guest == nullptr) {
    return reply(ReplyOf(absl::FailedPreconditionError("kvp: the machine has no such component")));
  }
  auto pool = KeyValuePool::kExternal;
  if (!request.pool().empty()) {
    size_t i = 0;
    while (i < std::size(kPools) && vsp::TextOf(kPools[i]) != request.pool()) ++i;
    if (i == std::size(kPools)) {
      return reply(ReplyOf(absl::InvalidArgumentError(
          "kvp: --pool: it is none of external, guest, auto, auto-external and auto-internal")));
    }
    pool = kPools[i];
  }
  const auto answer = [](ControlHandler::Reply reply) {
    return [reply = std::move(reply)](const absl::Status& status) mutable { reply(ReplyOf(ErrorOf("kvp", status))); };
  };
  switch (request.operation()) {
    case KeyValueRequest::LIST: {
      std::vector<KeyValuePool> pools(std::begin(kPools), std::begin(kPools) + kExchangedPools);
      if (!request.pool().empty()) pools = {pool};
      return std::make_shared<Collection>(*guest, std::move(reply))->List(std::move(pools), request.from());
    }
    case KeyValueRequest::GET:
      // By the list: what Linux' daemon answers to a request for one is always empty.
      return guest->List(pool, [pool, key = request.key(), reply = std::move(reply)](
                                   const absl::StatusOr<std::vector<vsp::KeyValue>>& pairs) mutable {
        if (!pairs.ok()) return reply(ReplyOf(ErrorOf("kvp", pairs.status())));
        const auto found =
            std::find_if(pairs->begin(), pairs->end(), [&](const vsp::KeyValue& each) { return each.key == key; });
        if (found == pairs->end()) {
          return reply(ReplyOf(ErrorOf("kvp", absl::NotFoundError("the guest has none of that name"))));
        }
        ControlReply done;
        KeyValue& pair = *done.mutable_key_values()->add_pairs();
        pair.set_pool(std::string(vsp::TextOf(pool)));
        pair.set_key(found->key);
        pair.set_value(found->value);
        reply(std::move(done));
      });
    case KeyValueRequest::SET:
      return guest->Set(pool, request.key(), request.value(), answer(std::move(reply)));
    case KeyValueRequest::DELETE:
      return guest->Delete(pool, request.key(), answer(std::move(reply)));
    case KeyValueRequest::ADDRESSES: {
      std::vector<std::string> adapters;
      if (!request.adapter().empty()) {
        std::string id = FindId(networks, request.adapter(), IdToAsk);
        // One that the guest has given itself.
        if (absl::StrContains(id, ':')) absl::AsciiStrToUpper(&id);
        adapters = {std::move(id)};
      } else {
        for (const NetworkStatus& network : networks) adapters.push_back(IdToAsk(network));
      }
      if (adapters.empty()) {
        return reply(ReplyOf(absl::FailedPreconditionError("kvp: the machine has no network adapter")));
      }
      return std::make_shared<Collection>(*guest, std::move(reply))->GetAddresses(std::move(adapters));
    }
    case KeyValueRequest::SET_ADDRESSES: {
      absl::StatusOr<vsp::GuestAddresses> addresses = ParseGuestAddresses(request.addresses());
      if (addresses.ok() && request.adapter().empty()) {
        addresses = absl::InvalidArgumentError("an adapter is needed");
      }
      if (!addresses.ok()) return reply(ReplyOf(ErrorOf("kvp: set-addresses", addresses.status())));
      addresses->adapter_id = FindId(networks, request.adapter(), IdToTell);
      return guest->SetAddresses(
          *addresses, [called = request.adapter(), reply = std::move(reply)](const absl::Status& status) mutable {
            reply(ReplyOf(ErrorOf(absl::StrCat("kvp: ", absl::CHexEscape(called)), status)));
          });
    }
    default:
      return reply(ReplyOf(absl::InvalidArgumentError("kvp: no such operation")));
  }
}

void CopyFile(machine::Machine& machine, const CopyFileRequest& request, ControlHandler::Reply reply) {
  vsp::GuestFileCopy* const guest = machine.integration().file_copy;
  if (guest == nullptr) {
    return reply(ReplyOf(absl::FailedPreconditionError("copy: the machine has no such component")));
  }
  const std::string called = absl::CHexEscape(request.source());
  absl::StatusOr<std::unique_ptr<boot::ByteSource>> opened = boot::OpenFileSource(request.source());
  if (!opened.ok()) return reply(ReplyOf(ErrorOf(absl::StrCat("copy: ", called), opened.status())));
  const std::shared_ptr<boot::ByteSource> source = *std::move(opened);
  const auto asker = std::make_shared<ControlHandler::Reply>(std::move(reply));
  const uint64_t size = source->size();
  const auto tell = [asker, size](uint64_t done_bytes) {
    ControlReply progress;
    progress.mutable_progress()->set_done_bytes(done_bytes);
    progress.mutable_progress()->set_total_bytes(size);
    (*asker)(std::move(progress));
  };
  guest->Copy({.guest_path = request.guest_path(),
               .overwrite = request.overwrite(),
               .create_path = request.create_path(),
               .size_bytes = size,
               .read = [source, called](uint64_t offset,
                                        absl::Span<uint8_t> to) { return ErrorOf(called, source->Read(offset, to)); },
               .on_progress =
                   [asker, tell, size, next = kProgressBytes](uint64_t done_bytes) mutable {
                     if (done_bytes >= next || done_bytes == size) {
                       tell(done_bytes);
                       next = done_bytes + kProgressBytes;
                     }
                     return asker->is_wanted();
                   }},
              [asker](const absl::Status& status) { (*asker)(ReplyOf(ErrorOf("copy", status))); });
}

}  // namespace hvsdk::vmm
