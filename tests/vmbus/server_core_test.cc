// SPDX-License-Identifier: Apache-2.0
// The state machine, spoken to in the transcript's words: what goes in, and exactly what comes out.

#include "hvsdk/vmbus/server_core.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/transcript.h"

namespace hvsdk::vmbus {
namespace {

namespace wire = hvdef::vmbus;

constexpr hvdef::Guid kInstance = hvdef::MakeGuid("00000001-0000-0000-0000-000000000000");
constexpr hvdef::Guid kOther = hvdef::MakeGuid("00000002-0000-0000-0000-000000000000");
constexpr hvdef::Guid kThird = hvdef::MakeGuid("00000003-0000-0000-0000-000000000000");

class ServerCoreTest : public testing::Test {
 protected:
  ServerCoreTest() : bytes_(256 * kPageSize) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_)).ok());
    core_.SetListener(&transcript_);
  }

  // What the core says to a message of the guest, one line each.
  std::string Guest(const std::string& message) {
    const auto bytes = ParseMessage(message);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    transcript_.Clear();
    EXPECT_TRUE(core_.OnMessage(*bytes));
    std::string text = Answer();
    EXPECT_EQ(text.substr(0, 2), "> ");
    return text.substr(text.find('\n') + 1);
  }
  // What the core says to an act of the host.
  template <typename F>
  std::string Host(F act) {
    transcript_.Clear();
    act();
    std::string text = Answer();
    return text.substr(text.find('\n') + 1);
  }
  std::string Answer() {
    core_.CheckInvariants();
    while (core_.FirstMessage() != nullptr) core_.PopMessage();
    Notice notice;
    while (core_.TakeNotice(notice)) {
    }
    return transcript_.text();
  }

  OfferId Add(const hvdef::Guid& instance, uint16_t subchannel = 0) {
    Offer offer;
    offer.class_id = hvdef::class_id::kScsi;
    offer.instance_id = instance;
    offer.subchannel_index = subchannel;
    const auto id = core_.AddOffer(offer);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.ok() ? *id : OfferId{0};
  }
  void Connect(const std::string& version = "5.3") {
    Guest(absl::StrCat("initiate-contact version=", version, version < "2.4" ? " target=0x1000" : " target=2"));
    ASSERT_TRUE(core_.version().has_value());
    Guest("request-offers");
  }
  // Lends `pages` pages from page 16 on.
  std::string Lend(int channel, int gpadl, int pages) {
    std::string text;
    std::string words = absl::StrCat("words=", pages * 4096);
    int in_message = 1;
    bool header = true;
    for (int i = 0; i <= pages; ++i) {
      if (i == pages || in_message == (header ? 27 : 28)) {
        text += header ? Guest(absl::StrCat("gpadl-header channel=", channel, " gpadl=", gpadl,
                                            " bytes=", 8 + 8 * pages, " ranges=1 ", words))
                       : Guest(absl::StrCat("gpadl-body gpadl=", gpadl, " ", words));
        header = false;
        in_message = 0;
        words = "words=";
      }
      if (i == pages) break;
      absl::StrAppend(&words, words.back() == '=' ? "" : ",", 16 + i);
      ++in_message;
    }
    return text;
  }
  void OpenFirst(OfferId id) {
    Lend(1, 5, 8);
    Guest("open-channel channel=1 open_id=1 gpadl=5 downstream=4 target_vp=1");
    core_.CompleteOpen(id, true);
    ASSERT_TRUE(core_.is_open(id));
    Answer();
  }

  GuestMemory memory_;
  std::vector<uint8_t> bytes_;
  ServerCore core_{memory_, {.vp_count = 4, .max_gpadls = 10, .max_gpadl_bytes = 4096, .max_pending_messages = 20}};
  Transcript transcript_;
};

// --- Versions. ---

TEST_F(ServerCoreTest, EveryVersionIsNegotiated) {
  for (const wire::Version version : wire::kVersions) {
    const auto number = static_cast<uint32_t>(version);
    const std::string text = absl::StrCat(number >> 16, ".", number & 0xFFFF);
    const uint32_t connection = wire::HasMessageConnectionId(version) ? 4 : number;
    const std::string target = wire::HasChannelInterrupts(version) ? "2" : "0x1000";
    EXPECT_EQ(Guest(absl::StrCat("initiate-contact version=", text, " target=", target)),
              absl::StrFormat("< version-response supported=1 state=0 connection=0x%x\n", connection))
        << text;
    EXPECT_EQ(core_.version(), version);
  }
}

TEST_F(ServerCoreTest, UnknownVersionsAreNotSupported) {
  for (const char* version : {"0.0", "0.12", "1.0", "2.0", "4.2", "5.4", "6.0", "65535.65535"}) {
    EXPECT_EQ(Guest(absl::StrCat("initiate-contact version=", version, " target=2")),
              "< version-response supported=0 state=0 connection=0x0\n")
        << version;
    EXPECT_FALSE(core_.version().has_value());
  }
}

TEST_F(ServerCoreTest, NewestVersionIsAnOption) {
  ServerCore core(memory_, {.newest_version = wire::Version::kV4_1});
  EXPECT_TRUE(core.OnMessage(*ParseMessage("initiate-contact version=5.0 target=2")));
  EXPECT_FALSE(core.version().has_value());
  EXPECT_TRUE(core.OnMessage(*ParseMessage("initiate-contact version=4.1")));
  EXPECT_EQ(core.version(), wire::Version::kV4_1);
}

TEST_F(ServerCoreTest, MessagesGoToTheVpAndSintAskedFor) {
  const struct {
    const char* contact;
    uint32_t vp;
    uint8_t sint;
  } rows[] = {{"initiate-contact version=5.3 target_vp=3 target=5", 3, 5},
              {"initiate-contact version=4.1 target_vp=3 target=5", 3, 2},
              {"initiate-contact version=2.4 target_vp=3", 0, 2},
              {"initiate-contact version=1.1 target_vp=3 target=0x1000", 0, 2}};
  for (const auto& row : rows) {
    EXPECT_TRUE(core_.OnMessage(*ParseMessage(row.contact)));
    ASSERT_NE(core_.FirstMessage(), nullptr);
    EXPECT_EQ(ToInt(core_.FirstMessage()->vp), row.vp) << row.contact;
    EXPECT_EQ(ToInt(core_.FirstMessage()->sint), row.sint) << row.contact;
    Answer();
  }
}

TEST_F(ServerCoreTest, WrongTargetsAndPagesAreRefused) {
  const std::string no = "< version-response supported=0 state=0 connection=0x0\n";
  EXPECT_EQ(Guest("initiate-contact version=5.3 target=16"), no);      // no SINT16
  EXPECT_EQ(Guest("initiate-contact version=5.3 target=0x102"), no);   // VTL 1
  EXPECT_EQ(Guest("initiate-contact version=1.1 target=0"), no);       // no interrupt page
  EXPECT_EQ(Guest("initiate-contact version=1.1 target=0x1001"), no);  // not a page
  EXPECT_EQ(Guest("initiate-contact version=0.13 target=0xfffffffffffff000"), no);
  EXPECT_EQ(Guest("initiate-contact version=5.3 target=2 parent_to_child_monitor_page=0x1000"),
            "< version-response supported=1 state=2 connection=0x4\n");
  EXPECT_FALSE(core_.version().has_value());
}

TEST_F(ServerCoreTest, NothingWorksBeforeContact) {
  Add(kInstance);
  for (const char* message : {"request-offers", "unload", "close-channel channel=1", "relid-released channel=1",
                              "gpadl-header channel=1 gpadl=1 bytes=16 ranges=1 words=4096,16", "raw ", "raw 0e"}) {
    EXPECT_EQ(Guest(message), "") << message;
  }
  EXPECT_EQ(core_.ignored_messages(), 7u);
}

// --- Offers. ---

TEST_F(ServerCoreTest, OffersComeWhenAskedForAndThenByThemselves) {
  Add(kInstance);
  Guest("initiate-contact version=5.3 target=2");
  EXPECT_EQ(Host([&] { Add(kOther); }), "");
  EXPECT_EQ(Guest("request-offers"),
            "< offer-channel channel=1 class=ba6163d9-04a1-4d29-b605-72e2ffb1dc7f "
            "instance=00000001-0000-0000-0000-000000000000 connection_id=0x2001 monitor_id=0xff "
            "is_dedicated_interrupt=0x1\n"
            "< offer-channel channel=2 class=ba6163d9-04a1-4d29-b605-72e2ffb1dc7f "
            "instance=00000002-0000-0000-0000-000000000000 connection_id=0x2002 monitor_id=0xff "
            "is_dedicated_interrupt=0x1\n"
            "< all-offers-delivered\n");
  EXPECT_EQ(Guest("request-offers"), "");  // once a connection
  EXPECT_EQ(Host([&] { Add(hvdef::MakeGuid("00000003-0000-0000-0000-000000000000")); }),
            "< offer-channel channel=3 class=ba6163d9-04a1-4d29-b605-72e2ffb1dc7f "
            "instance=00000003-0000-0000-0000-000000000000 connection_id=0x2003 monitor_id=0xff "
            "is_dedicated_interrupt=0x1\n");
}

TEST_F(ServerCoreTest, SameInstanceTwiceIsAMistakeOfTheHost) {
  Add(kInstance);
  Offer again;
  again.class_id = hvdef::class_id::kScsi;
  again.instance_id = kInstance;
  EXPECT_EQ(core_.AddOffer(again).status().code(), absl::StatusCode::kAlreadyExists);
  again.subchannel_index = 1;
  EXPECT_TRUE(core_.AddOffer(again).ok());
}

TEST_F(ServerCoreTest, RescindAndReofferWaitForTheGuest) {
  const OfferId first = Add(kInstance);
  Connect();
  EXPECT_EQ(Host([&] { core_.RemoveOffer(first); }), "< rescind-offer channel=1\n");
  EXPECT_EQ(Host([&] { Add(kInstance); }), "");  // the guest would take it for a subchannel
  EXPECT_EQ(Guest("relid-released channel=1").substr(0, 25), "< offer-channel channel=1");
  EXPECT_EQ(Guest("relid-released channel=2"), "");
}

TEST_F(ServerCoreTest, AnOfferTheGuestDeclinesStaysAwayUntilTheNextConnection) {
  const OfferId id = Add(kInstance);
  Connect();
  EXPECT_EQ(Guest("relid-released channel=1"), "");
  EXPECT_EQ(core_.channel_id(id), 0u);
  Connect();
  EXPECT_EQ(core_.channel_id(id), 1u);
}

TEST_F(ServerCoreTest, SubchannelsFollowTheirPrimary) {
  const OfferId primary = Add(kInstance);
  Connect();
  const OfferId sub = Add(kInstance, 1);
  EXPECT_EQ(core_.channel_id(sub), 2u);
  core_.RemoveOffer(sub);
  core_.RemoveOffer(primary);
  Answer();
  // Both anew, the subchannel first: it waits for the primary, which waits for the guest.
  const OfferId new_sub = Add(kInstance, 1);
  const OfferId new_primary = Add(kInstance);
  EXPECT_EQ(core_.channel_id(new_sub), 0u);
  Guest("relid-released channel=2");
  EXPECT_EQ(core_.channel_id(new_sub), 0u);
  Guest("relid-released channel=1");
  EXPECT_EQ(core_.channel_id(new_primary), 1u);
  EXPECT_EQ(core_.channel_id(new_sub), 2u);
}

TEST_F(ServerCoreTest, OldGuestsSeeNoSubchannels) {
  Add(kInstance);
  const OfferId sub = Add(kInstance, 1);
  Connect("1.1");
  EXPECT_EQ(core_.channel_id(sub), 0u);
  Connect("2.4");
  EXPECT_EQ(core_.channel_id(sub), 2u);
}

TEST_F(ServerCoreTest, ChannelsUpToTheLimit) {
  std::vector<OfferId> ids;
  Offer offer;
  for (uint32_t i = 0; i < wire::kMaxChannels; ++i) {
    offer.instance_id.data1 = i;
    ids.push_back(*core_.AddOffer(offer));
  }
  offer.instance_id.data1 = wire::kMaxChannels;
  EXPECT_EQ(core_.AddOffer(offer).status().code(), absl::StatusCode::kResourceExhausted);
  Connect();
  EXPECT_EQ(core_.channel_id(ids.front()), 1u);
  EXPECT_EQ(core_.channel_id(ids.back()), 2047u);
  core_.RemoveOffer(ids[100]);
  EXPECT_EQ(core_.AddOffer(offer).status().code(), absl::StatusCode::kResourceExhausted);  // the guest still has 101
  Answer();
  Guest("relid-released channel=101");
  EXPECT_EQ(core_.channel_id(*core_.AddOffer(offer)), 101u);
}

// --- GPADLs. ---

TEST_F(ServerCoreTest, GpadlOfOneMessage) {
  Add(kInstance);
  Connect();
  EXPECT_EQ(Lend(1, 7, 3), "< gpadl-created channel=1 gpadl=0x7 status=0x0\n");
  EXPECT_EQ(Guest("gpadl-teardown channel=1 gpadl=7"), "< gpadl-torndown gpadl=0x7\n");
  EXPECT_EQ(Guest("gpadl-teardown channel=1 gpadl=7"), "");
  EXPECT_EQ(core_.gpadl_bytes(), 0u);
}

TEST_F(ServerCoreTest, GpadlOfManyMessages) {
  Add(kInstance);
  Connect();
  EXPECT_EQ(Lend(1, 7, 200), "< gpadl-created channel=1 gpadl=0x7 status=0x0\n");
  const auto gpadl = core_.AcquireGpadl(OfferId{1}, 7);
  ASSERT_NE(gpadl, nullptr);
  EXPECT_EQ(gpadl->size_bytes(), 200u * 4096);
  ASSERT_EQ(gpadl->pages().size(), 200u);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(gpadl->pages()[i], bytes_.data() + (16 + i) * 4096);
  core_.ReleaseGpadl(OfferId{1}, 7);
}

TEST_F(ServerCoreTest, GpadlOfManyRanges) {
  Add(kInstance);
  Connect();
  // 0x18 bytes from 0xff0 in page 20 (spans two), 4096 bytes of page 30, 1 byte at 0xfff of page 31.
  EXPECT_EQ(Guest("gpadl-header channel=1 gpadl=9 bytes=56 ranges=3 "
                  "words=0xff000000018,20,22,0x1000,30,0xfff00000001,31"),
            "< gpadl-created channel=1 gpadl=0x9 status=0x0\n");
  const auto gpadl = core_.AcquireGpadl(OfferId{1}, 9);
  ASSERT_NE(gpadl, nullptr);
  EXPECT_EQ(gpadl->size_bytes(), 0x18u + 4096 + 1);
  EXPECT_TRUE(gpadl->pages().empty());  // not whole pages
  bytes_[20 * 4096 + 0xFF0] = 1;
  bytes_[22 * 4096] = 2;
  bytes_[30 * 4096 + 4095] = 3;
  bytes_[31 * 4096 + 0xFFF] = 4;
  uint8_t out[0x18 + 4096 + 1];
  EXPECT_TRUE(gpadl->Read(0, out, sizeof(out)));
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(out[0x10], 2);
  EXPECT_EQ(out[0x18 + 4095], 3);
  EXPECT_EQ(out[0x18 + 4096], 4);
  EXPECT_FALSE(gpadl->Read(1, out, sizeof(out)));
  EXPECT_FALSE(gpadl->Read(~uint64_t{0}, out, 2));
  const uint8_t in[2] = {8, 9};
  EXPECT_TRUE(gpadl->Write(0x0F, in, 2));  // across the page's end
  EXPECT_EQ(bytes_[20 * 4096 + 0xFFF], 8);
  EXPECT_EQ(bytes_[22 * 4096], 9);
  core_.ReleaseGpadl(OfferId{1}, 9);
}

TEST_F(ServerCoreTest, BadGpadlsAreRefused) {
  Add(kInstance);
  Connect();
  const std::string no = "< gpadl-created channel=1 gpadl=0x1 status=0xc0000001\n";
  for (const char* tail : {
           "bytes=16 ranges=0 words=4096,16",            // no range
           "bytes=0 ranges=1",                           // no words
           "bytes=15 ranges=1 words=4096,16",            // half a word
           "bytes=16 ranges=1 words=0,16",               // an empty range
           "bytes=16 ranges=1 words=0x100000000010,16",  // an offset beyond the page
           "bytes=16 ranges=1 words=4097,16",            // spans two pages, names one
           "bytes=16 ranges=2 words=4096,16",            // the second range is not there
           "bytes=16 ranges=1 words=4096,256",           // beyond memory
           "bytes=16 ranges=1 words=4096,0xffffffffffffffff", "bytes=16 ranges=1 words=0xffffffff,16",
           "bytes=4104 ranges=1 words=4096,16",  // more than a guest may lend
       }) {
    EXPECT_EQ(Guest(absl::StrCat("gpadl-header channel=1 gpadl=1 ", tail)), no) << tail;
    EXPECT_EQ(core_.gpadl_count(), 0u);
  }
  EXPECT_EQ(Guest("gpadl-header channel=2 gpadl=1 bytes=16 ranges=1 words=4096,16"),
            "< gpadl-created channel=2 gpadl=0x1 status=0xc0000001\n");
  EXPECT_EQ(Guest("gpadl-body gpadl=1 words=1"), "");
}

TEST_F(ServerCoreTest, GpadlNumberInUseIsRefusedAndTheFirstUnharmed) {
  Add(kInstance);
  Connect();
  Guest("gpadl-header channel=1 gpadl=1 bytes=24 ranges=1 words=8192,16");
  EXPECT_EQ(Guest("gpadl-header channel=1 gpadl=1 bytes=16 ranges=1 words=4096,16"),
            "< gpadl-created channel=1 gpadl=0x1 status=0xc0000001\n");
  EXPECT_EQ(Guest("gpadl-teardown channel=1 gpadl=1"), "");  // not there yet
  EXPECT_EQ(Guest("gpadl-body gpadl=1 words=17"), "< gpadl-created channel=1 gpadl=0x1 status=0x0\n");
  EXPECT_EQ(Guest("gpadl-body gpadl=1 words=18"), "");
}

TEST_F(ServerCoreTest, MessagesOfFullLengthAreRightToo) {
  Add(kInstance);
  Connect();
  std::vector<uint8_t> message = *ParseMessage("gpadl-header channel=1 gpadl=1 bytes=16 ranges=1 words=4096,16");
  message.resize(240, 0xAA);
  EXPECT_TRUE(core_.OnMessage(message));
  ASSERT_NE(core_.FirstMessage(), nullptr);
  EXPECT_EQ(FormatMessage(core_.FirstMessage()->payload()), "gpadl-created channel=1 gpadl=0x1 status=0x0");
}

TEST_F(ServerCoreTest, GpadlsAreBounded) {
  Add(kInstance);
  Connect();
  for (int i = 1; i <= 10; ++i) {
    EXPECT_EQ(Guest(absl::StrCat("gpadl-header channel=1 gpadl=", i, " bytes=16 ranges=1 words=4096,16")),
              absl::StrFormat("< gpadl-created channel=1 gpadl=0x%x status=0x0\n", i));
  }
  EXPECT_EQ(Guest("gpadl-header channel=1 gpadl=11 bytes=16 ranges=1 words=4096,16"),
            "< gpadl-created channel=1 gpadl=0xb status=0xc0000001\n");
  // Whatever is under way counts in full from its first message.
  Guest("gpadl-teardown channel=1 gpadl=1");
  EXPECT_EQ(Guest("gpadl-header channel=1 gpadl=12 bytes=3952 ranges=1 words=4096"), "");
  EXPECT_EQ(core_.gpadl_bytes(), 9u * 16 + 3952);
  Guest("gpadl-teardown channel=1 gpadl=2");
  EXPECT_EQ(Guest("gpadl-header channel=1 gpadl=13 bytes=24 ranges=1 words=8192"),
            "< gpadl-created channel=1 gpadl=0xd status=0xc0000001\n");
}

TEST_F(ServerCoreTest, TeardownWaitsForLeases) {
  const OfferId id = Add(kInstance);
  Connect();
  Lend(1, 7, 3);
  ASSERT_NE(core_.AcquireGpadl(id, 7), nullptr);
  ASSERT_NE(core_.AcquireGpadl(id, 7), nullptr);
  EXPECT_EQ(core_.AcquireGpadl(id, 8), nullptr);
  EXPECT_EQ(Guest("gpadl-teardown channel=1 gpadl=7"), "@ gpadl-teardown id=1 gpadl=0x7\n");
  EXPECT_EQ(core_.AcquireGpadl(id, 7), nullptr);
  EXPECT_EQ(Host([&] { core_.ReleaseGpadl(id, 7); }), "");
  EXPECT_EQ(Host([&] { core_.ReleaseGpadl(id, 7); }), "< gpadl-torndown gpadl=0x7\n");
}

TEST_F(ServerCoreTest, AnotherChannelsGpadlIsNoneOfItsBusiness) {
  Add(kInstance);
  const OfferId other = Add(kOther);
  Connect();
  Lend(1, 7, 8);
  EXPECT_EQ(core_.AcquireGpadl(other, 7), nullptr);
  EXPECT_EQ(Guest("gpadl-teardown channel=2 gpadl=7"), "");
  EXPECT_EQ(Guest("open-channel channel=2 open_id=3 gpadl=7 downstream=4 target_vp=0"),
            "< open-result channel=2 open_id=3 status=0xc0000001\n");
}

// --- Opening and closing. ---

TEST_F(ServerCoreTest, OpenCloseReopen) {
  const OfferId id = Add(kInstance);
  Connect();
  Lend(1, 5, 8);
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(Guest("open-channel channel=1 open_id=9 gpadl=5 downstream=4 target_vp=3 user_data=0102"),
              "@ open id=1 channel=1 gpadl=0x5 downstream=4 vp=3\n");
    EXPECT_EQ(Host([&] { core_.CompleteOpen(id, true); }), "< open-result channel=1 open_id=9 status=0x0\n");
    EXPECT_EQ(Guest("open-channel channel=1 open_id=9 gpadl=5 downstream=4 target_vp=3"), "");  // it is open
    EXPECT_EQ(Guest("close-channel channel=1"), "@ close id=1\n");
    EXPECT_EQ(Guest("close-channel channel=1"), "");
    EXPECT_EQ(Host([&] { core_.CompleteClose(id); }), "");
  }
}

TEST_F(ServerCoreTest, ProviderRefuses) {
  const OfferId id = Add(kInstance);
  Connect();
  Lend(1, 5, 8);
  Guest("open-channel channel=1 open_id=1 gpadl=5 downstream=4 target_vp=0");
  EXPECT_EQ(Host([&] { core_.CompleteOpen(id, false); }), "< open-result channel=1 open_id=1 status=0xc0000001\n");
  EXPECT_EQ(Guest("gpadl-teardown channel=1 gpadl=5"), "< gpadl-torndown gpadl=0x5\n");
}

TEST_F(ServerCoreTest, ImpossibleOpensAreRefused) {
  Add(kInstance);
  Connect();
  Lend(1, 5, 8);
  Lend(1, 6, 3);
  Guest("gpadl-header channel=1 gpadl=7 bytes=48 ranges=1 words=0x800004000,16,17,18,19,20");  // not whole pages
  for (const char* tail :
       {"gpadl=5 downstream=0", "gpadl=5 downstream=1", "gpadl=5 downstream=7", "gpadl=5 downstream=4294967295",
        "gpadl=5 downstream=4 target_vp=4", "gpadl=6 downstream=2", "gpadl=7 downstream=2", "gpadl=8 downstream=4"}) {
    EXPECT_EQ(Guest(absl::StrCat("open-channel channel=1 open_id=1 ", tail)),
              "< open-result channel=1 open_id=1 status=0xc0000001\n")
        << tail;
  }
  EXPECT_EQ(Guest("open-channel channel=2 gpadl=5 downstream=4"), "");
  // No interrupts wanted: as good as a VP.
  EXPECT_EQ(Guest("open-channel channel=1 open_id=1 gpadl=5 downstream=6 target_vp=4294967295"),
            "@ open id=1 channel=1 gpadl=0x5 downstream=6 vp=4294967295\n");
}

TEST_F(ServerCoreTest, OldGuestsAreInterruptedOnVp0) {
  Add(kInstance);
  Connect("1.1");
  Lend(1, 5, 8);
  EXPECT_EQ(Guest("open-channel channel=1 open_id=1 gpadl=5 downstream=4 target_vp=3"),
            "@ open id=1 channel=1 gpadl=0x5 downstream=4 vp=0\n");
}

TEST_F(ServerCoreTest, TheRingsGpadlComesBackWhenTheProviderHasClosed) {
  const OfferId id = Add(kInstance);
  Connect();
  OpenFirst(id);
  EXPECT_EQ(Guest("gpadl-teardown channel=1 gpadl=5"), "");  // while open
  EXPECT_EQ(Guest("close-channel channel=1"), "@ close id=1\n");
  EXPECT_EQ(Host([&] { core_.CompleteClose(id); }), "< gpadl-torndown gpadl=0x5\n");
}

TEST_F(ServerCoreTest, ReopenWhileStillClosing) {
  const OfferId id = Add(kInstance);
  Connect();
  OpenFirst(id);
  Guest("close-channel channel=1");
  Lend(1, 6, 8);
  EXPECT_EQ(Guest("open-channel channel=1 open_id=2 gpadl=6 downstream=4 target_vp=0"), "");
  EXPECT_EQ(Host([&] { core_.CompleteClose(id); }), "@ open id=1 channel=1 gpadl=0x6 downstream=4 vp=0\n");
  core_.CompleteOpen(id, true);
  Guest("close-channel channel=1");
  Guest("gpadl-teardown channel=1 gpadl=6");
  EXPECT_EQ(Guest("open-channel channel=1 open_id=3 gpadl=6 downstream=4 target_vp=0"), "");
  EXPECT_EQ(Host([&] { core_.CompleteClose(id); }),
            "< gpadl-torndown gpadl=0x6\n< open-result channel=1 open_id=3 status=0xc0000001\n");
}

TEST_F(ServerCoreTest, RescindInEveryState) {
  const struct {
    const char* name;
    int steps;  // lend, open, complete, close, reopen
  } rows[] = {{"offered", 0}, {"lent", 1}, {"opening", 2}, {"open", 3}, {"closing", 4}, {"reopening", 5}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    const OfferId id = Add(kInstance);
    Connect();
    if (row.steps > 0) Lend(1, 5, 8);
    if (row.steps > 1) Guest("open-channel channel=1 open_id=1 gpadl=5 downstream=4 target_vp=1");
    if (row.steps > 2) core_.CompleteOpen(id, true);
    if (row.steps > 3) Guest("close-channel channel=1");
    if (row.steps > 4) Guest("open-channel channel=1 open_id=2 gpadl=5 downstream=4 target_vp=1");
    Answer();
    EXPECT_EQ(Host([&] { core_.RemoveOffer(id); }), "< rescind-offer channel=1\n");
    // What a guest may still say about it is harmless, and its memory comes back.
    EXPECT_EQ(Guest("close-channel channel=1"), "");
    EXPECT_EQ(Guest("open-channel channel=1 open_id=1 gpadl=5 downstream=4 target_vp=1"), "");
    EXPECT_EQ(Lend(1, 6, 4), "< gpadl-created channel=1 gpadl=0x6 status=0x0\n");
    EXPECT_EQ(Guest("modify-channel channel=1 target_vp=0"), "< modify-channel-response channel=1 status=0xc0000001\n");
    if (row.steps > 0) {
      EXPECT_EQ(Guest("gpadl-teardown channel=1 gpadl=5"), "< gpadl-torndown gpadl=0x5\n");
    }
    EXPECT_EQ(Guest("relid-released channel=1"), "");
    EXPECT_EQ(core_.gpadl_count(), 0u);
    EXPECT_EQ(Guest("close-channel channel=1"), "");
  }
}

// What the provider of a channel still does with it must not reach another.
TEST_F(ServerCoreTest, AChannelIdIsHeldUntilItsProviderHasFinished) {
  const OfferId id = Add(kInstance);
  Connect();
  OpenFirst(id);
  Guest("close-channel channel=1");
  Guest("relid-released channel=1");
  const OfferId second = Add(kOther), third = Add(kThird);
  EXPECT_EQ(core_.channel_id(second), 2u);
  EXPECT_EQ(core_.channel_id(third), 3u);
  EXPECT_EQ(core_.FindChannel(1), absl::nullopt);
  for (const char* message : {"relid-released channel=1", "close-channel channel=1"}) EXPECT_EQ(Guest(message), "");
  core_.RemoveOffer(third);
  Guest("relid-released channel=3");
  core_.CompleteClose(id);
  core_.CheckInvariants();
  EXPECT_EQ(core_.channel_id(Add(kThird)), 1u);
}

TEST_F(ServerCoreTest, RescindWhileATeardownWaits) {
  const OfferId id = Add(kInstance);
  Connect();
  OpenFirst(id);
  Guest("gpadl-teardown channel=1 gpadl=5");
  EXPECT_EQ(Host([&] { core_.RemoveOffer(id); }), "< gpadl-torndown gpadl=0x5\n< rescind-offer channel=1\n");
}

// --- Moving interrupts. ---

TEST_F(ServerCoreTest, ModifyChannelIsAnsweredFrom53On) {
  const OfferId id = Add(kInstance);
  Connect();
  EXPECT_EQ(Guest("modify-channel channel=1 target_vp=2"), "< modify-channel-response channel=1 status=0xc0000001\n");
  OpenFirst(id);
  EXPECT_EQ(Guest("modify-channel channel=1 target_vp=2"), "@ retarget id=1 vp=2\n");
  EXPECT_EQ(Guest("modify-channel channel=1 target_vp=3"), "");  // before the answer
  EXPECT_EQ(Host([&] { core_.CompleteRetarget(id); }), "< modify-channel-response channel=1 status=0x0\n");
  for (const char* target : {"4", "4294967295"}) {
    EXPECT_EQ(Guest(absl::StrCat("modify-channel channel=1 target_vp=", target)),
              "< modify-channel-response channel=1 status=0xc0000001\n");
  }
}

TEST_F(ServerCoreTest, ModifyChannelWithoutAnswersKeepsTheLatest) {
  const OfferId id = Add(kInstance);
  Connect("4.1");
  OpenFirst(id);
  EXPECT_EQ(Guest("modify-channel channel=1 target_vp=2"), "@ retarget id=1 vp=2\n");
  EXPECT_EQ(Guest("modify-channel channel=1 target_vp=3"), "");
  EXPECT_EQ(Guest("modify-channel channel=1 target_vp=0"), "");
  EXPECT_EQ(Host([&] { core_.CompleteRetarget(id); }), "@ retarget id=1 vp=0\n");
  EXPECT_EQ(Host([&] { core_.CompleteRetarget(id); }), "");
}

TEST_F(ServerCoreTest, ModifyChannelBefore41IsUnknown) {
  const OfferId id = Add(kInstance);
  Connect("4.0");
  OpenFirst(id);
  EXPECT_EQ(Guest("modify-channel channel=1 target_vp=2"), "");
}

// --- Leaving. ---

TEST_F(ServerCoreTest, UnloadWaitsForProvidersAndLeases) {
  const OfferId id = Add(kInstance);
  const OfferId other = Add(kOther);
  Connect();
  OpenFirst(id);
  Lend(2, 9, 2);
  ASSERT_NE(core_.AcquireGpadl(other, 9), nullptr);
  EXPECT_EQ(Guest("unload"), "@ close id=1\n@ gpadl-teardown id=2 gpadl=0x9\n");
  EXPECT_EQ(Guest("request-offers"), "");
  EXPECT_EQ(Host([&] { core_.CompleteClose(id); }), "");
  EXPECT_EQ(Host([&] { core_.ReleaseGpadl(other, 9); }), "< unload-response\n");
  Connect();
  EXPECT_EQ(core_.channel_id(id), 1u);
}

TEST_F(ServerCoreTest, UnloadWhileOpening) {
  const OfferId id = Add(kInstance);
  for (const bool accepted : {true, false}) {
    Connect();
    Lend(1, 5, 8);
    Guest("open-channel channel=1 open_id=1 gpadl=5 downstream=4 target_vp=1");
    EXPECT_EQ(Guest("unload"), "");
    EXPECT_EQ(Host([&] { core_.CompleteOpen(id, accepted); }), accepted ? "@ close id=1\n" : "< unload-response\n");
    if (accepted) {
      EXPECT_EQ(Host([&] { core_.CompleteClose(id); }), "< unload-response\n");
    }
  }
}

TEST_F(ServerCoreTest, ANewKernelWaitsForTheOldOnesChannels) {
  const OfferId id = Add(kInstance);
  Connect();
  OpenFirst(id);
  EXPECT_EQ(Guest("initiate-contact version=4.0"), "@ close id=1\n");
  EXPECT_EQ(Guest("initiate-contact version=4.1"), "");  // the latest counts
  EXPECT_EQ(Host([&] { core_.CompleteClose(id); }), "< version-response supported=1 state=0 connection=0x40001\n");
  EXPECT_EQ(core_.version(), wire::Version::kV4_1);
  EXPECT_EQ(core_.gpadl_count(), 0u);
}

TEST_F(ServerCoreTest, TheHostMayLeaveWhileTheGuestUnloads) {
  const OfferId id = Add(kInstance);
  Connect();
  OpenFirst(id);
  Guest("unload");
  EXPECT_EQ(Host([&] { core_.RemoveOffer(id); }), "< unload-response\n");
}

TEST_F(ServerCoreTest, ResetForgetsTheGuest) {
  const OfferId id = Add(kInstance);
  Connect();
  OpenFirst(id);
  EXPECT_EQ(Host([&] { core_.Reset(); }), "@ close id=1\n");
  EXPECT_EQ(Host([&] { core_.CompleteClose(id); }), "");
  EXPECT_FALSE(core_.version().has_value());
  // A reset while the guest unloads: nobody is there to hear the answer.
  Connect();
  OpenFirst(id);
  Guest("unload");
  EXPECT_EQ(Host([&] { core_.Reset(); }), "");
  EXPECT_EQ(Host([&] { core_.CompleteClose(id); }), "");
}

// --- Flow control. ---

TEST_F(ServerCoreTest, AGuestThatDoesNotListenIsNotListenedTo) {
  Add(kInstance);
  Connect();
  const auto message = *ParseMessage("gpadl-header channel=9 gpadl=1 bytes=16 ranges=1 words=4096,16");
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(core_.OnMessage(message));
  EXPECT_FALSE(core_.OnMessage(message));
  EXPECT_EQ(core_.pending_messages(), 20u);
  core_.PopMessage();
  EXPECT_TRUE(core_.OnMessage(message));
  EXPECT_FALSE(core_.OnMessage(message));
  // A new start needs nobody to listen to the old.
  const uint64_t epoch = core_.message_epoch();
  EXPECT_TRUE(core_.OnMessage(*ParseMessage("unload")));
  EXPECT_NE(core_.message_epoch(), epoch);
  EXPECT_EQ(core_.pending_messages(), 1u);
}

// --- Sockets. ---

TEST_F(ServerCoreTest, TlConnect) {
  const std::string request =
      "tl-connect-request endpoint=00000001-0000-0000-0000-000000000000 service=00000002-0000-0000-0000-000000000000";
  Connect("3.0");
  EXPECT_EQ(Guest(request), "");
  Connect("4.0");
  EXPECT_EQ(Guest(request),
            "@ tl-connect endpoint=00000001-0000-0000-0000-000000000000 "
            "service=00000002-0000-0000-0000-000000000000 silo=00000000-0000-0000-0000-000000000000\n");
  EXPECT_EQ(Host([&] { core_.RefuseTlConnect(kInstance, kOther); }), "");
  Connect("5.2");
  std::vector<uint8_t> with_silo = *ParseMessage(request);
  with_silo.resize(56, 0x11);
  transcript_.Clear();
  EXPECT_TRUE(core_.OnMessage(with_silo));
  EXPECT_NE(transcript_.text().find("silo=11111111-1111-1111-1111-111111111111"), std::string::npos);
  Answer();
  EXPECT_EQ(Host([&] { core_.RefuseTlConnect(kInstance, kOther); }),
            "< tl-connect-result endpoint=00000001-0000-0000-0000-000000000000 "
            "service=00000002-0000-0000-0000-000000000000 status=0xc0000236\n");
}

}  // namespace
}  // namespace hvsdk::vmbus
