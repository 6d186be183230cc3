// SPDX-License-Identifier: Apache-2.0
// A guest's file systems frozen and thawed: by a guest that answers as Linux' driver and daemon do, and by guests that are slow, die, or lie.

#include "hvsdk/vsp/backup.h"

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/backup.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/integration_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::backup;
using hvdef::integration::MessageType;
using hvdef::integration::Status;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using wire::Operation;

class BackupTest : public IntegrationFixture {
 protected:
  void Make() {
    backup_ = *Backup::Create(*server_, resources(), {});
    MakeChild();
  }
  // A guest whose daemon answers.
  std::unique_ptr<Served> OpenGuest() {
    return OpenServed(hvdef::class_id::kBackup, MessageType::kBackup, wire::kVersions,
                      [this](vsc::IntegrationRequest& request) {
                        wire::Message message;
                        ASSERT_EQ(request.size_bytes, sizeof(message));
                        std::memcpy(&message, request.body, sizeof(message));
                        asked_.push_back(message.operation);
                        request.status = answers_ == nullptr ? Status::kOk : answers_(message.operation);
                      });
  }
  // One that is played by hand, and has agreed on a version.
  std::unique_ptr<Raw> OpenPlayed() {
    auto guest = OpenRaw(hvdef::class_id::kBackup);
    Agree(*guest, 5, 0);
    return guest;
  }
  void Freeze(int seconds = 60) {
    backup_->Freeze(std::chrono::seconds(seconds),
                    [this](const absl::Status& status) { told_.push_back("frozen: " + status.ToString()); });
    Pump();
  }
  void Thaw() {
    backup_->Thaw([this](const absl::Status& status) { told_.push_back("thawed: " + status.ToString()); });
    Pump();
  }
  std::vector<std::string> Told() { return std::exchange(told_, {}); }
  std::vector<Operation> Asked() { return std::exchange(asked_, {}); }

  // The operation of the host's next message, which waits for Answer; kNone: there is none.
  Operation TakeOperation(Raw& raw) {
    std::vector<uint8_t> message = Take(raw);
    if (message.empty()) return Operation::kNone;
    EXPECT_EQ(message[12], static_cast<uint8_t>(MessageType::kBackup));
    EXPECT_EQ(message[18], sizeof(wire::Message));
    message_ = message;
    return static_cast<Operation>(message[28]);
  }
  void Answer(Raw& raw, Status status = Status::kOk) {
    message_[25] = 5;
    std::memcpy(&message_[20], &status, sizeof(status));
    Put(raw, message_);
  }
  void ExpectAndAnswer(Raw& raw, Operation operation, Status status = Status::kOk) {
    ASSERT_EQ(TakeOperation(raw), operation);
    Answer(raw, status);
  }
  // Through a state, into the same machine.
  void SaveAndRestore() {
    backup_->Pause();
    const state::SavedState saved = state::SaveOf(*backup_);
    ASSERT_TRUE(state::RestoreOf(*backup_, saved).ok());
    EXPECT_EQ(state::SaveOf(*backup_), saved);
    backup_->Resume();
    Pump();
  }

  std::unique_ptr<Backup> backup_;
  Status (*answers_)(Operation) = nullptr;
  std::vector<Operation> asked_;
  std::vector<std::string> told_;
  std::vector<uint8_t> message_;

  void TearDown() override {
    backup_.reset();
    IntegrationFixture::TearDown();
  }
};

TEST_F(BackupTest, GoldenBytes) {
  Make();
  auto guest = OpenPlayed();
  Freeze();
  const std::vector<uint8_t> message = Take(*guest);
  EXPECT_EQ(Hex({message.begin(), message.begin() + 40}),
            "0100000020000000"  // pipe: data, 32 bytes
            "03000000"
            "0500"
            "05000000"
            "0c00"  // framework 3.0, backup, 5.0, 12 bytes
            "00000000"
            "01"
            "03"
            "0000"
            "0200000000000000"
            "00000000");  // check
}

TEST_F(BackupTest, FrozenAndThawed) {
  Make();
  Freeze();
  Thaw();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("no driver that freezes"), "thawed: OK"));
  auto guest = OpenGuest();
  for (int i = 0; i < 3; ++i) {
    Freeze();
    EXPECT_TRUE(backup_->is_frozen());
    Freeze();
    Thaw();
    EXPECT_FALSE(backup_->is_frozen());
    Thaw();
    EXPECT_THAT(Told(), ElementsAre("frozen: OK", HasSubstr("for somebody else"), "thawed: OK", "thawed: OK"));
    EXPECT_THAT(Asked(), ElementsAre(Operation::kCheck, Operation::kFreeze, Operation::kThaw));
  }
  Advance(1000 * kSecond);
  EXPECT_THAT(Asked(), IsEmpty());
}

TEST_F(BackupTest, AGuestWithoutItsServiceIsLeftAlone) {
  Make();
  answers_ = [](Operation) { return Status::kFail; };
  auto guest = OpenGuest();
  Freeze();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("hv_vss_daemon (0x80004005)")));
  Advance(100 * kSecond);
  EXPECT_THAT(Asked(), ElementsAre(Operation::kCheck));
}

TEST_F(BackupTest, OneThatCannotFreezeIsThawed) {
  Make();
  answers_ = [](Operation operation) { return operation == Operation::kFreeze ? Status::kFail : Status::kOk; };
  auto guest = OpenGuest();
  Freeze();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("FAILED_PRECONDITION: the guest cannot freeze its file systems")));
  EXPECT_THAT(Asked(), ElementsAre(Operation::kCheck, Operation::kFreeze, Operation::kThaw));
  Advance(100 * kSecond);
  EXPECT_THAT(Asked(), IsEmpty());
}

// A daemon that dies between freeze and thaw, and is started anew.
TEST_F(BackupTest, OneThatDoesNotThawIsAskedUntilItDoes) {
  Make();
  auto guest = OpenGuest();
  Freeze();
  answers_ = [](Operation) { return Status::kFail; };
  Thaw();
  Freeze();
  EXPECT_THAT(Told(), ElementsAre("frozen: OK", HasSubstr("is asked again and again"),
                                  HasSubstr("not thawed its file systems yet")));
  Advance(20 * kSecond);
  std::vector<Operation> asked = Asked();
  EXPECT_GT(asked.size(), 8u);
  EXPECT_LT(asked.size(), 15u);
  // Once more by hand.
  Thaw();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("does not thaw")));
  answers_ = nullptr;
  Advance(2 * kSecond);
  Asked();
  Advance(100 * kSecond);
  EXPECT_THAT(Asked(), IsEmpty());
  Freeze();
  Thaw();
  EXPECT_THAT(Told(), ElementsAre("frozen: OK", "thawed: OK"));
}

TEST_F(BackupTest, OneThatFreezesTooLateIsThawedThen) {
  Make();
  auto guest = OpenPlayed();
  Freeze(10);
  ExpectAndAnswer(*guest, Operation::kCheck);
  ASSERT_EQ(TakeOperation(*guest), Operation::kFreeze);
  Thaw();
  Advance(11 * kSecond);
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("about to be frozen"), HasSubstr("not frozen its file systems in time")));
  Freeze();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("not thawed its file systems yet")));
  Advance(1000 * kSecond);
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone) << "one request at a time";
  EXPECT_FALSE(backup_->is_frozen());
  Answer(*guest);
  EXPECT_FALSE(backup_->is_frozen());
  ExpectAndAnswer(*guest, Operation::kThaw);
  EXPECT_THAT(Told(), IsEmpty());
  Freeze();
  EXPECT_EQ(TakeOperation(*guest), Operation::kCheck);
}

TEST_F(BackupTest, OneThatDoesNotAnswerCostsItsOwnRequest) {
  Make();
  auto guest = OpenPlayed();
  Freeze(10);
  Advance(11 * kSecond);
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("DEADLINE_EXCEEDED: the guest does not answer")));
  Freeze();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("an earlier request")));
  ExpectAndAnswer(*guest, Operation::kCheck);
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone);
  Freeze();
  ExpectAndAnswer(*guest, Operation::kCheck);
  ExpectAndAnswer(*guest, Operation::kFreeze);
  Thaw();
  Thaw();
  Advance(36 * kSecond);
  EXPECT_THAT(Told(), ElementsAre("frozen: OK", HasSubstr("is being asked"), HasSubstr("does not answer that it has")));
  ExpectAndAnswer(*guest, Operation::kThaw);
  Freeze();
  EXPECT_EQ(TakeOperation(*guest), Operation::kCheck);
}

// A guest's driver goes and comes, as when it is loaded anew: whatever was frozen is thawed.
TEST_F(BackupTest, ADriverThatGoesAndComes) {
  Make();
  auto guest = OpenPlayed();
  const auto reopen = [&] {
    child_->client().Close(guest->channel);
    Pump();
    guest = OpenPlayed();
  };
  Freeze();
  EXPECT_EQ(TakeOperation(*guest), Operation::kCheck);
  reopen();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("driver has gone")));
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone) << "nothing was frozen";
  Freeze();
  ExpectAndAnswer(*guest, Operation::kCheck);
  EXPECT_EQ(TakeOperation(*guest), Operation::kFreeze);
  reopen();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("driver has gone")));
  ExpectAndAnswer(*guest, Operation::kThaw);
  Freeze();
  ExpectAndAnswer(*guest, Operation::kCheck);
  ExpectAndAnswer(*guest, Operation::kFreeze);
  EXPECT_TRUE(backup_->is_frozen());
  child_->client().Close(guest->channel);
  Pump();
  EXPECT_FALSE(backup_->is_frozen());
  Thaw();
  EXPECT_THAT(Told(), ElementsAre("frozen: OK", HasSubstr("are thawed when it is back")));
  Advance(10 * kSecond);
  guest = OpenPlayed();
  EXPECT_EQ(TakeOperation(*guest), Operation::kThaw);
  Thaw();
  reopen();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("driver has gone")));
  ExpectAndAnswer(*guest, Operation::kThaw);
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone);
  // Of a machine that is reset nothing is left.
  Freeze();
  ExpectAndAnswer(*guest, Operation::kCheck);
  ExpectAndAnswer(*guest, Operation::kFreeze);
  backup_->Reset();
  Thaw();
  EXPECT_THAT(Told(), ElementsAre("frozen: OK", "thawed: OK"));
}

// In each step: whoever restores a state finds nothing frozen in the end, and nobody has to ask.
TEST_F(BackupTest, ARestoredMachineThaws) {
  Make();
  auto guest = OpenPlayed();
  SaveAndRestore();
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone);

  Freeze();
  EXPECT_EQ(TakeOperation(*guest), Operation::kCheck);
  SaveAndRestore();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("CANCELLED")));
  Answer(*guest);
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone) << "nobody waits for it";

  Freeze();
  ExpectAndAnswer(*guest, Operation::kCheck);
  EXPECT_EQ(TakeOperation(*guest), Operation::kFreeze);
  SaveAndRestore();
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("CANCELLED")));
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone);
  Answer(*guest);
  ExpectAndAnswer(*guest, Operation::kThaw);

  Freeze();
  ExpectAndAnswer(*guest, Operation::kCheck);
  ExpectAndAnswer(*guest, Operation::kFreeze);
  EXPECT_THAT(Told(), ElementsAre("frozen: OK"));
  SaveAndRestore();
  EXPECT_FALSE(backup_->is_frozen());
  EXPECT_EQ(TakeOperation(*guest), Operation::kThaw);
  SaveAndRestore();
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone) << "it is asked already";
  Answer(*guest, Status::kFail);
  SaveAndRestore();
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone) << "not yet";
  Advance(3 * kSecond);
  ExpectAndAnswer(*guest, Operation::kThaw);
  Advance(10 * kSecond);
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone);
}

TEST_F(BackupTest, APausedGuestIsAskedNothing) {
  Make();
  auto guest = OpenPlayed();
  backup_->Pause();
  Freeze(10);
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone);
  Advance(5 * kSecond);
  backup_->Resume();
  Pump();
  ExpectAndAnswer(*guest, Operation::kCheck);
  ExpectAndAnswer(*guest, Operation::kFreeze);
  backup_->Pause();
  Thaw();
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone);
  backup_->Resume();
  Pump();
  ExpectAndAnswer(*guest, Operation::kThaw);
  EXPECT_THAT(Told(), ElementsAre("frozen: OK", "thawed: OK"));
  // One that does not come back to itself before the time is over.
  backup_->Pause();
  Freeze(10);
  Advance(11 * kSecond);
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("does not answer")));
  backup_->Resume();
  Pump();
  EXPECT_EQ(TakeOperation(*guest), Operation::kNone);
}

// Answers to what was not asked, twice, and of other sizes.
TEST_F(BackupTest, Lies) {
  Make();
  auto guest = OpenPlayed();
  Freeze();
  EXPECT_EQ(TakeOperation(*guest), Operation::kCheck);
  message_[28] = static_cast<uint8_t>(Operation::kThaw);  // the host knows what it asked
  Answer(*guest);
  Answer(*guest);
  EXPECT_EQ(TakeOperation(*guest), Operation::kFreeze);
  ++message_[24];  // another transaction's
  Answer(*guest);
  EXPECT_FALSE(backup_->is_frozen());
  --message_[24];
  message_.resize(28);
  message_[18] = 0;
  Answer(*guest);
  EXPECT_TRUE(backup_->is_frozen());
  Thaw();
  ExpectAndAnswer(*guest, Operation::kThaw, static_cast<Status>(77));
  EXPECT_THAT(Told(), ElementsAre("frozen: OK", HasSubstr("(0x4d)")));
}

// What is told may ask anew, however it ends.
TEST_F(BackupTest, WhoIsToldMayAskAnew) {
  Make();
  auto guest = OpenPlayed();
  int told = 0;
  const auto ask_anew = [&](const absl::Status&) {
    ++told;
    backup_->Freeze(std::chrono::seconds(1), [&](const absl::Status&) { ++told; });
    backup_->Thaw([&](const absl::Status&) { ++told; });
  };
  backup_->Freeze(std::chrono::seconds(1), ask_anew);
  Pump();
  backup_->Reset();
  EXPECT_EQ(told, 3);
  child_->client().Close(guest->channel);
  Pump();
  guest = OpenPlayed();
  backup_->Freeze(std::chrono::seconds(1), ask_anew);
  child_->client().Close(guest->channel);
  Pump();
  EXPECT_EQ(told, 6);
  guest = OpenPlayed();
  backup_->Freeze(std::chrono::seconds(1), [&](const absl::Status&) { ++told; });
  backup_.reset();
  EXPECT_EQ(told, 7);
}

}  // namespace
}  // namespace hvsdk::vsp
