// SPDX-License-Identifier: Apache-2.0
// Random guests against a model of what a guest is owed: every request answered once, memory given back only when the
// host has let go of it, channel ids never given out twice, offers told exactly once.
//
// The model knows nothing of ServerCore's states. It keeps a guest's notes (what it was offered, what it has asked for)
// and a host's (what it uses), and judges each message by them.

#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/server_core.h"
#include "hvsdk/vmbus/transcript.h"
#include "tests/random_seed.h"

namespace hvsdk::vmbus {
namespace {

namespace wire = hvdef::vmbus;
using wire::MessageType;
using wire::Version;

class Model {
 public:
  Model(uint32_t seed, GuestMemory& memory) : random_(seed), core_(memory, {.vp_count = 4}) {
    core_.SetListener(&transcript_);
  }

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      Step();
      Listen();
      core_.CheckInvariants();
    }
    if (testing::Test::HasFailure()) return;
    // Let the host finish: then nothing may be left unanswered.
    FinishHost();
    EXPECT_FALSE(contact_pending_) << Tail();
    EXPECT_FALSE(unload_pending_) << Tail();
    for (const auto& [id, channel] : channels_) {
      EXPECT_FALSE(channel.open_pending && !channel.rescinded) << "channel " << id << "\n" << Tail();
      EXPECT_FALSE(channel.modify_pending && !channel.rescinded) << "channel " << id << "\n" << Tail();
    }
    for (const auto& [id, gpadl] : gpadls_) {
      // The ring of a channel that the guest has left open stays where it is.
      EXPECT_TRUE(!gpadl.teardown_sent || HostUses(id)) << "gpadl " << id << "\n" << Tail();
    }
    opens_total += opens_;
    torn_total += torn_;
    rescinds_total += rescinds_;
  }

  static int opens_total, torn_total, rescinds_total;

 private:
  struct GuestChannel {
    bool rescinded = false;
    bool open_pending = false;
    uint32_t open_id = 0;
    bool open = false;
    bool close_sent = false;  // and not opened since
    bool modify_pending = false;
    uint32_t instance = 0;
    uint16_t subchannel = 0;
  };
  struct GuestGpadl {
    uint32_t channel = 0;
    bool created = false;
    uint32_t words_left = 0;
    bool teardown_sent = false;
  };
  struct HostOffer {
    uint32_t instance = 0;
    uint16_t subchannel = 0;
    bool ring_in_use = false;
    uint32_t ring_gpadl = 0;
    std::multiset<uint32_t> leases;
    std::deque<Notice> waiting;
  };

  uint32_t Pick(uint32_t below) { return random_() % below; }
  std::string Tail() const {
    const std::string& text = transcript_.text();
    return text.size() > 3000 ? text.substr(text.size() - 3000) : text;
  }

  // --- What the guest does. ---

  template <typename T>
  void Say(MessageType type, T message, const std::vector<uint64_t>& words = {}) {
    const wire::ChannelMessageHeader header = {static_cast<uint32_t>(type), 0};
    std::memcpy(&message, &header, sizeof(header));
    uint8_t bytes[wire::kMaxMessageSize] = {};
    std::memcpy(bytes, &message, sizeof(T));
    size_t size = sizeof(T);
    for (const uint64_t word : words) {
      std::memcpy(bytes + size, &word, sizeof(word));
      size += sizeof(word);
    }
    ASSERT_TRUE(core_.OnMessage(absl::MakeConstSpan(bytes, size)));
  }

  void Contact() {
    wire::InitiateContact message = {};
    version_ = wire::kVersions[Pick(std::size(wire::kVersions))];
    message.version = static_cast<uint32_t>(version_);
    message.target_message_vp = Pick(4);
    message.interrupt_page_or_target = wire::HasChannelInterrupts(version_) ? 2 : 0x1000;
    connected_ = false;
    unload_pending_ = false;
    contact_pending_ = true;
    Say(MessageType::kInitiateContact, message);
  }

  void Step() {
    if (!connected_) {
      // A guest that waits for an answer may also lose patience and start over.
      if (!contact_pending_ && !unload_pending_) {
        Contact();
      } else if (Pick(30) == 0) {
        Contact();
      } else {
        HostStep();
      }
      return;
    }
    if (!offers_asked_) {
      offers_asked_ = true;
      Say(MessageType::kRequestOffers, wire::EmptyMessage{});
      return;
    }
    switch (Pick(14)) {
      case 0:
      case 1:
      case 2:
      case 3:
        HostStep();
        break;
      case 4:
      case 5:
        CreateGpadl();
        break;
      case 6:
        ContinueGpadl();
        break;
      case 7:
        TeardownGpadl();
        break;
      case 8:
      case 9:
        OpenChannel();
        break;
      case 10:
        CloseChannel();
        break;
      case 11:
        ModifyChannel();
        break;
      case 12:
        ReleaseChannel();
        break;
      case 13:
        if (Pick(40) == 0) {
          connected_ = false;
          unload_pending_ = true;
          Say(MessageType::kUnload, wire::EmptyMessage{});
        } else if (Pick(60) == 0) {
          Contact();  // it crashed
        }
        break;
    }
  }

  // A channel that the guest knows, or 0.
  uint32_t AnyChannel() {
    if (channels_.empty()) return 0;
    auto it = channels_.begin();
    std::advance(it, Pick(channels_.size()));
    return it->first;
  }

  void CreateGpadl() {
    const uint32_t channel = AnyChannel();
    if (channel == 0 || gpadls_.size() > 20) return;
    const uint32_t id = next_gpadl_++;
    const uint32_t pages = Pick(4) == 0 ? 4 + Pick(60) : 4 + Pick(8);
    std::vector<uint64_t> words = {uint64_t{pages} * 4096};
    const uint32_t now = std::min<uint32_t>(pages + 1, wire::kMaxGpadlHeaderWords);
    while (words.size() < now) words.push_back(Pick(64));
    GuestGpadl& gpadl = gpadls_[id];
    gpadl.channel = channel;
    gpadl.words_left = pages + 1 - now;
    if (gpadl.words_left == 0) created_due_.insert(id);
    const auto bytes = static_cast<uint16_t>((pages + 1) * 8);
    Say(MessageType::kGpadlHeader, wire::GpadlHeader{{}, channel, id, bytes, 1}, words);
  }

  void ContinueGpadl() {
    for (auto& [id, gpadl] : gpadls_) {
      if (gpadl.words_left == 0) continue;
      const uint32_t now = std::min<uint32_t>(gpadl.words_left, 1 + Pick(wire::kMaxGpadlBodyWords));
      gpadl.words_left -= now;
      std::vector<uint64_t> words(now);
      for (uint64_t& word : words) word = Pick(64);
      if (gpadl.words_left == 0) created_due_.insert(id);
      Say(MessageType::kGpadlBody, wire::GpadlBody{{}, 0, id}, words);
      return;
    }
  }

  void TeardownGpadl() {
    for (auto& [id, gpadl] : gpadls_) {
      if (!gpadl.created || gpadl.teardown_sent || Pick(3) != 0) continue;
      gpadl.teardown_sent = true;
      Say(MessageType::kGpadlTeardown, wire::GpadlTeardown{{}, gpadl.channel, id});
      return;
    }
  }

  void OpenChannel() {
    const uint32_t id = AnyChannel();
    if (id == 0) return;
    GuestChannel& channel = channels_[id];
    if (channel.open || channel.open_pending || channel.rescinded) return;
    for (auto& [gpadl_id, gpadl] : gpadls_) {
      if (gpadl.channel != id || !gpadl.created || gpadl.teardown_sent) continue;
      channel.open_pending = true;
      channel.close_sent = false;
      channel.open_id = random_();
      wire::OpenChannel message = {};
      message.channel_id = id;
      message.open_id = channel.open_id;
      message.ring_gpadl_id = gpadl_id;
      message.target_vp = Pick(4);
      message.downstream_page_offset = 2;
      Say(MessageType::kOpenChannel, message);
      return;
    }
  }

  void CloseChannel() {
    const uint32_t id = AnyChannel();
    if (id == 0 || !channels_[id].open) return;
    channels_[id].open = false;
    channels_[id].close_sent = true;
    Say(MessageType::kCloseChannel, wire::ChannelMessage{{}, id});
  }

  void ModifyChannel() {
    const uint32_t id = AnyChannel();
    if (id == 0 || !wire::HasModifyChannel(version_)) return;
    GuestChannel& channel = channels_[id];
    if (!channel.open || channel.modify_pending || channel.rescinded) return;
    channel.modify_pending = wire::HasModifyChannelResponse(version_);
    Say(MessageType::kModifyChannel, wire::ModifyChannel{{}, id, Pick(4)});
  }

  void ReleaseChannel() {
    const uint32_t id = AnyChannel();
    if (id == 0) return;
    const GuestChannel& channel = channels_[id];
    // Of its own accord a guest releases only what it never opened; after a rescind, anything.
    if (!channel.rescinded && (channel.open || channel.open_pending || channel.close_sent || Pick(10) != 0)) return;
    channels_.erase(id);
    for (auto it = gpadls_.begin(); it != gpadls_.end();) {
      it = it->second.channel == id ? gpadls_.erase(it) : std::next(it);
    }
    Say(MessageType::kRelidReleased, wire::ChannelMessage{{}, id});
  }

  // --- What the host does. ---

  void HostStep() {
    TakeNotices();
    switch (Pick(8)) {
      case 0: {
        Offer offer;
        offer.instance_id.data1 = Pick(5);
        offer.subchannel_index = Pick(4) == 0 ? 1 : 0;
        const auto id = core_.AddOffer(offer);
        bool there = false;
        for (const auto& [_, host] : hosts_) {
          there |= host.instance == offer.instance_id.data1 && host.subchannel == offer.subchannel_index;
        }
        EXPECT_EQ(id.ok(), !there);
        if (id.ok()) hosts_[*id] = {offer.instance_id.data1, offer.subchannel_index, false, 0, {}, {}};
        break;
      }
      case 1:
        if (!hosts_.empty() && Pick(3) == 0) {
          auto it = hosts_.begin();
          std::advance(it, Pick(hosts_.size()));
          const OfferId id = it->first;
          hosts_.erase(it);  // it uses nothing any more
          core_.RemoveOffer(id);
        }
        break;
      case 2:
        for (auto& [id, host] : hosts_) {
          if (gpadls_.empty() || Pick(4) != 0) continue;
          auto gpadl = gpadls_.begin();
          std::advance(gpadl, Pick(gpadls_.size()));
          if (core_.AcquireGpadl(id, gpadl->first) != nullptr) host.leases.insert(gpadl->first);
          break;
        }
        break;
      case 3:
        for (auto& [id, host] : hosts_) {
          if (host.leases.empty()) continue;
          const uint32_t gpadl = *host.leases.begin();
          host.leases.erase(host.leases.begin());
          core_.ReleaseGpadl(id, gpadl);
          break;
        }
        break;
      default:
        for (auto& [id, host] : hosts_) {
          if (host.waiting.empty() || Pick(2) != 0) continue;
          Complete(id, host, Pick(5) != 0);
          break;
        }
        break;
    }
  }

  void TakeNotices() {
    Notice notice;
    while (core_.TakeNotice(notice)) {
      const auto host = hosts_.find(notice.offer);
      ASSERT_NE(host, hosts_.end()) << "a notice for a host that left\n" << Tail();
      if (notice.kind == Notice::Kind::kOpen) {
        EXPECT_FALSE(host->second.ring_in_use) << Tail();
        host->second.ring_in_use = true;
        host->second.ring_gpadl = notice.open.ring_gpadl_id;
      }
      if (notice.kind != Notice::Kind::kGpadlTeardown) host->second.waiting.push_back(notice);
    }
  }

  void Complete(OfferId id, HostOffer& host, bool accepted) {
    const Notice notice = host.waiting.front();
    host.waiting.pop_front();
    if (notice.kind == Notice::Kind::kOpen) {
      if (!accepted) host.ring_in_use = false;
      core_.CompleteOpen(id, accepted);
    } else if (notice.kind == Notice::Kind::kClose) {
      while (!host.leases.empty()) {
        const uint32_t gpadl = *host.leases.begin();
        host.leases.erase(host.leases.begin());
        core_.ReleaseGpadl(id, gpadl);
      }
      host.ring_in_use = false;
      core_.CompleteClose(id);
    } else {
      core_.CompleteRetarget(id);
    }
  }

  void FinishHost() {
    for (bool again = true; again && !testing::Test::HasFailure();) {
      again = false;
      TakeNotices();
      for (auto& [id, host] : hosts_) {
        while (!host.leases.empty()) {
          const uint32_t gpadl = *host.leases.begin();
          host.leases.erase(host.leases.begin());
          core_.ReleaseGpadl(id, gpadl);
        }
        if (host.waiting.empty()) continue;
        Complete(id, host, true);
        again = true;
      }
      Listen();
    }
  }

  bool HostUses(uint32_t gpadl) const {
    for (const auto& [id, host] : hosts_) {
      if ((host.ring_in_use && host.ring_gpadl == gpadl) || host.leases.count(gpadl) != 0) return true;
    }
    return false;
  }
  bool HostUsesAnything() const {
    for (const auto& [id, host] : hosts_) {
      if (host.ring_in_use || !host.leases.empty()) return true;
    }
    return false;
  }

  // --- What the guest hears, judged. ---

  void Listen() {
    for (; core_.FirstMessage() != nullptr && !testing::Test::HasFailure(); core_.PopMessage()) {
      const std::vector<uint8_t> bytes(core_.FirstMessage()->payload().begin(), core_.FirstMessage()->payload().end());
      wire::ChannelMessageHeader header;
      std::memcpy(&header, bytes.data(), sizeof(header));
      Hear(static_cast<MessageType>(header.message_type), bytes);
    }
    for (const uint32_t gpadl : created_due_) ADD_FAILURE() << "gpadl " << gpadl << " was not answered\n" << Tail();
    created_due_.clear();
  }

  template <typename T>
  static T As(const std::vector<uint8_t>& bytes) {
    T message = {};
    EXPECT_EQ(bytes.size(), sizeof(T));
    std::memcpy(&message, bytes.data(), std::min(bytes.size(), sizeof(T)));
    return message;
  }

  void Hear(MessageType type, const std::vector<uint8_t>& bytes) {
    switch (type) {
      case MessageType::kVersionResponse:
        EXPECT_TRUE(contact_pending_) << Tail();
        EXPECT_FALSE(HostUsesAnything()) << "a new connection while memory of the old one is in use\n" << Tail();
        EXPECT_EQ(As<wire::VersionResponse>(bytes).version_supported, 1);
        contact_pending_ = false;
        connected_ = true;
        Forget();
        break;
      case MessageType::kUnloadResponse:
        EXPECT_TRUE(unload_pending_) << Tail();
        EXPECT_FALSE(HostUsesAnything()) << "unloaded while memory is in use\n" << Tail();
        unload_pending_ = false;
        Forget();
        break;
      case MessageType::kOfferChannel: {
        const auto offer = As<wire::OfferChannel>(bytes);
        EXPECT_TRUE(connected_ && offers_asked_) << Tail();
        EXPECT_EQ(channels_.count(offer.channel_id), 0u) << "channel id given out twice\n" << Tail();
        bool primary = offer.subchannel_index == 0;
        for (const auto& [id, channel] : channels_) {
          EXPECT_FALSE(channel.instance == offer.instance_id.data1 && channel.subchannel == offer.subchannel_index)
              << "offered twice\n"
              << Tail();
          primary |= channel.instance == offer.instance_id.data1 && channel.subchannel == 0 && !channel.rescinded;
        }
        EXPECT_TRUE(primary) << "a subchannel without its primary\n" << Tail();
        EXPECT_TRUE(offer.subchannel_index == 0 || wire::HasSubchannels(version_));
        GuestChannel& channel = channels_[offer.channel_id];
        channel.instance = offer.instance_id.data1;
        channel.subchannel = offer.subchannel_index;
        break;
      }
      case MessageType::kAllOffersDelivered: {
        // Every primary that the host has up, the guest now knows.
        for (const auto& [id, host] : hosts_) {
          bool known = host.subchannel != 0;
          for (const auto& [channel_id, channel] : channels_) known |= channel.instance == host.instance;
          EXPECT_TRUE(known) << Tail();
        }
        break;
      }
      case MessageType::kRescindOffer: {
        const uint32_t id = As<wire::ChannelMessage>(bytes).channel_id;
        ASSERT_EQ(channels_.count(id), 1u) << Tail();
        EXPECT_FALSE(channels_[id].rescinded) << Tail();
        channels_[id].rescinded = true;
        channels_[id].open = false;
        ++rescinds_;
        break;
      }
      case MessageType::kOpenResult: {
        const auto result = As<wire::OpenResult>(bytes);
        ASSERT_EQ(channels_.count(result.channel_id), 1u) << Tail();
        GuestChannel& channel = channels_[result.channel_id];
        EXPECT_TRUE(channel.open_pending) << Tail();
        EXPECT_EQ(result.open_id, channel.open_id) << Tail();
        channel.open_pending = false;
        channel.open = result.status >= 0;
        opens_ += channel.open;
        break;
      }
      case MessageType::kGpadlCreated: {
        const auto created = As<wire::GpadlCreated>(bytes);
        EXPECT_EQ(created_due_.erase(created.gpadl_id), 1u) << Tail();
        EXPECT_EQ(created.status, 0) << Tail();
        gpadls_[created.gpadl_id].created = true;
        break;
      }
      case MessageType::kGpadlTorndown: {
        const uint32_t id = As<wire::GpadlTorndown>(bytes).gpadl_id;
        ASSERT_EQ(gpadls_.count(id), 1u) << Tail();
        EXPECT_TRUE(gpadls_[id].teardown_sent) << Tail();
        EXPECT_FALSE(HostUses(id)) << "memory given back that the host still uses\n" << Tail();
        gpadls_.erase(id);
        ++torn_;
        break;
      }
      case MessageType::kModifyChannelResponse: {
        const auto response = As<wire::ModifyChannelResponse>(bytes);
        ASSERT_EQ(channels_.count(response.channel_id), 1u) << Tail();
        EXPECT_TRUE(channels_[response.channel_id].modify_pending) << Tail();
        EXPECT_EQ(response.status, 0) << Tail();
        channels_[response.channel_id].modify_pending = false;
        break;
      }
      default:
        ADD_FAILURE() << "unexpected message\n" << Tail();
    }
  }

  void Forget() {
    channels_.clear();
    gpadls_.clear();
    offers_asked_ = false;
  }

  std::mt19937 random_;
  ServerCore core_;
  Transcript transcript_;

  Version version_{};
  bool connected_ = false;
  bool contact_pending_ = false;
  bool unload_pending_ = false;
  bool offers_asked_ = false;
  std::map<uint32_t, GuestChannel> channels_;
  std::map<uint32_t, GuestGpadl> gpadls_;
  std::set<uint32_t> created_due_;
  uint32_t next_gpadl_ = 1;
  std::map<OfferId, HostOffer> hosts_;
  int opens_ = 0;
  int torn_ = 0;
  int rescinds_ = 0;
};

int Model::opens_total = 0;
int Model::torn_total = 0;
int Model::rescinds_total = 0;

TEST(ServerModelTest, RandomGuestsAndHosts) {
  std::vector<uint8_t> bytes(64 * 4096);
  GuestMemory memory;
  ASSERT_TRUE(memory.AddRange(0, absl::MakeSpan(bytes)).ok());
  const uint32_t first = TestSeed();
  for (uint32_t i = 0; i < 60; ++i) {
    SCOPED_TRACE(absl::StrCat("seed ", first + i));
    Model(first + i, memory).Run(1500);
    if (HasFailure()) return;
  }
  // The guests have been somewhere.
  EXPECT_GT(Model::opens_total, 500);
  EXPECT_GT(Model::torn_total, 500);
  EXPECT_GT(Model::rescinds_total, 500);
}

}  // namespace
}  // namespace hvsdk::vmbus
