// SPDX-License-Identifier: Apache-2.0
// Files written into a guest that takes them as Linux' hv_fcopy_daemon does, and into guests that fail.

#include "hvsdk/vsp/guest_file_copy.h"

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/utf16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/file_copy.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/integration_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::file_copy;
using hvdef::integration::MessageType;
using hvdef::integration::Status;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct FilesOfGuest {
  std::map<std::string, std::string> files;
  std::string open;  // its path
  size_t room = SIZE_MAX;
  int cancels = 0;
  bool knows_cancel = true;

  Status Serve(const vsc::IntegrationRequest& request) {
    wire::Header header;
    std::memcpy(&header, request.body, sizeof(header));
    switch (header.operation) {
      case wire::Operation::kBegin: {
        wire::Begin begin;
        EXPECT_EQ(request.size_bytes, sizeof(begin));
        std::memcpy(&begin, request.body, sizeof(begin));
        open = internal::FromUtf16(begin.directory) + internal::FromUtf16(begin.file_name);
        if (files.count(open) != 0 && (begin.flags & wire::kOverwrite) == 0) return Status::kAlreadyExists;
        files[open].clear();
        return Status::kOk;
      }
      case wire::Operation::kWrite: {
        wire::Write write;
        EXPECT_EQ(request.size_bytes, sizeof(write));
        std::memcpy(&write, request.body, sizeof(write));
        EXPECT_EQ(write.offset_low, files[open].size());
        files[open].append(reinterpret_cast<const char*>(write.data), write.size_bytes);
        return files[open].size() > room ? Status::kDiskFull : Status::kOk;
      }
      case wire::Operation::kComplete:
        return Status::kOk;
      case wire::Operation::kCancel:
        ++cancels;
        if (!knows_cancel) return Status::kFail;
        files.erase(open);
        return Status::kOk;
    }
    return Status::kFail;
  }
};

class GuestFileCopyTest : public IntegrationFixture {
 protected:
  void Make() {
    copier_ = *GuestFileCopy::Create(*server_, resources(), {});
    MakeChild();
  }
  std::unique_ptr<Served> OpenGuest() {
    return OpenServed(hvdef::class_id::kFileCopy, MessageType::kFileCopy, wire::kVersions,
                      [this](vsc::IntegrationRequest& request) { request.status = guest_.Serve(request); });
  }
  void Copy(const std::string& path, const std::string& text, FileCopyRequest request = {}) {
    request.guest_path = path;
    request.size_bytes = text.size();
    if (!request.read) {
      request.read = [text](uint64_t offset, absl::Span<uint8_t> to) {
        EXPECT_LE(offset + to.size(), text.size());
        std::memcpy(to.data(), text.data() + offset, to.size());
        return absl::OkStatus();
      };
    }
    copier_->Copy(std::move(request), [this](const absl::Status& status) { told_.push_back(status.ToString()); });
  }
  std::vector<std::string> Told() {
    Pump();
    return std::exchange(told_, {});
  }
  // The operation of the next message, which is not answered; and its answer.
  wire::Operation TakeOperation(Raw& raw, std::vector<uint8_t>& message) {
    message = Take(raw);
    wire::Header header{};
    EXPECT_GE(message.size(), 28 + sizeof(header));
    if (message.size() >= 28 + sizeof(header)) std::memcpy(&header, &message[28], sizeof(header));
    return header.operation;
  }
  void Answer(Raw& raw, std::vector<uint8_t> message, Status status = Status::kOk) {
    message[25] = 5;
    std::memcpy(&message[20], &status, sizeof(status));
    Put(raw, message);
  }
  static std::string Text(size_t size) {
    std::string text(size, '\0');
    for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 + i / 251);
    return text;
  }

  FilesOfGuest guest_;
  std::unique_ptr<GuestFileCopy> copier_;
  std::vector<std::string> told_;

  void TearDown() override {
    copier_.reset();
    IntegrationFixture::TearDown();
  }
};

TEST_F(GuestFileCopyTest, AFileOfAnySize) {
  Make();
  Copy("/tmp/a", "");
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("no driver for it")));
  auto guest = OpenGuest();
  for (const size_t size : {0, 1, 6143, 6144, 6145, 100'000}) {
    SCOPED_TRACE(size);
    uint64_t last = 0;
    FileCopyRequest request{.overwrite = true};
    request.on_progress = [&](uint64_t done) {
      EXPECT_GT(done, last);
      last = done;
      return true;
    };
    Copy("/tmp/a", Text(size), std::move(request));
    EXPECT_THAT(Told(), ElementsAre("OK"));
    EXPECT_EQ(guest_.files["/tmp/a"], Text(size));
    EXPECT_EQ(last, size);
  }
  Copy("C:\\Temp\\zażółć", "x");
  Copy("/tmp/a", "x");
  EXPECT_THAT(Told(), ElementsAre("OK", HasSubstr("ALREADY_EXISTS: the guest has it already")));
  EXPECT_EQ(guest_.files["C:\\Temp\\zażółć"], "x");
  EXPECT_EQ(guest_.cancels, 0);
}

TEST_F(GuestFileCopyTest, PathsThatAreNone) {
  Make();
  auto guest = OpenGuest();
  for (const std::string& path : {std::string("a"), std::string("/tmp/"), std::string("")}) Copy(path, "x");
  EXPECT_THAT(Told(), testing::Each(HasSubstr("no directory or no file name")));
  Copy("/" + std::string(259, 'a'), "x");
  EXPECT_THAT(Told(), ElementsAre("OK"));
  Copy("/" + std::string(260, 'a'), "x");
  // Fewer units of UTF-16, but Linux keeps UTF-8.
  std::string wide;
  for (int i = 0; i < 130; ++i) wide += "ż";
  Copy("/" + wide, "x");
  Copy("/\xFF", "x");
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("the file name is longer than 259 bytes"),
                                  HasSubstr("the file name is longer than 259 bytes"), HasSubstr("no text in UTF-8")));
}

TEST_F(GuestFileCopyTest, WhatDoesNotCompleteIsTakenBack) {
  Make();
  auto guest = OpenGuest();
  guest_.room = 10'000;
  Copy("/tmp/full", Text(20'000));
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("the guest's disk is full")));
  EXPECT_EQ(guest_.cancels, 1);
  guest_.room = SIZE_MAX;
  FileCopyRequest request;
  request.on_progress = [](uint64_t done) { return done < 12'000; };
  Copy("/tmp/gone", Text(50'000), std::move(request));
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("CANCELLED: the copy was cancelled")));
  EXPECT_EQ(guest_.cancels, 2);
  request = {};
  request.read = [](uint64_t offset, absl::Span<uint8_t>) {
    return offset < 12'000 ? absl::OkStatus() : absl::DataLossError("cannot be read");
  };
  Copy("/tmp/lost", Text(50'000), std::move(request));
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("DATA_LOSS: cannot be read")));
  EXPECT_EQ(guest_.cancels, 3);
  EXPECT_THAT(guest_.files, IsEmpty());
}

// As hv_fcopy_uio_daemon is.
TEST_F(GuestFileCopyTest, AGuestThatTakesNothingBackIsNotSaidTo) {
  Make();
  auto guest = OpenGuest();
  guest_.room = 10'000;
  guest_.knows_cancel = false;
  Copy("/tmp/full", Text(20'000));
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("disk is full; the guest does not remove what it has of the file")));
  guest_.room = SIZE_MAX;
  Copy("/tmp/full", Text(20'000), {.overwrite = true});
  EXPECT_THAT(Told(), ElementsAre("OK"));
  EXPECT_EQ(guest_.files["/tmp/full"], Text(20'000));
}

// A program in the guest that reads the rings by uio_hv_generic: it unmasks signals without a look at what came meanwhile.
TEST_F(GuestFileCopyTest, AGuestThatMissedASignalIsToldAgain) {
  Make();
  auto guest = OpenRaw(hvdef::class_id::kFileCopy);
  hvdef::RingControl& control = *guest->rings.incoming.memory().control();
  const auto interrupts = [this] { return server_->channel_counts().front().interrupts; };
  // It starts: the first message has come while it masked signals.
  control.interrupt_mask = 1;
  Copy("/tmp/a", "");
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("does not run yet")));
  uint64_t before = interrupts();
  control.interrupt_mask = 0;
  Copy("/tmp/a", "");
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("does not run yet")));
  EXPECT_EQ(interrupts(), before + 1);
  Agree(*guest, 1, 1);
  Copy("/tmp/a", "");
  Pump();
  std::vector<uint8_t> message;
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kBegin);
  // Its answer is read before it unmasks signals, and so is what comes next.
  control.interrupt_mask = 1;
  before = interrupts();
  Answer(*guest, message);
  EXPECT_EQ(interrupts(), before);
  control.interrupt_mask = 0;
  child_->client().Signal(guest->channel);
  Pump();
  EXPECT_EQ(interrupts(), before + 1);
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kComplete);
  // One that has taken everything is left alone.
  child_->client().Signal(guest->channel);
  Pump();
  EXPECT_EQ(interrupts(), before + 1);
  Answer(*guest, message);
  EXPECT_THAT(Told(), ElementsAre("OK"));
}

TEST_F(GuestFileCopyTest, OneThatIsNotAnsweredIsTakenBackLater) {
  Make();
  auto guest = OpenRaw(hvdef::class_id::kFileCopy);
  Agree(*guest, 1, 1);
  Copy("/tmp/a", "text");
  Copy("/tmp/b", "text");
  Pump();
  std::vector<uint8_t> message;
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kBegin);
  Answer(*guest, message);
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kWrite);
  Advance(36 * kSecond);
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("does not answer"), HasSubstr("does not answer")));
  Copy("/tmp/c", "text");
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("an earlier request")));
  // However much later: a guest that a debugger holds, say.
  Advance(1000 * kSecond);
  Answer(*guest, message, Status::kFail);
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kCancel);
  // It waits behind that.
  Copy("/tmp/d", "");
  Answer(*guest, message);
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kBegin);
  Answer(*guest, message);
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kComplete);
  Answer(*guest, message);
  EXPECT_THAT(Told(), ElementsAre("OK"));
}

// What the late answer says is not there, or is whole, is not cancelled: older daemons of Linux then remove the file that was last written.
class LateAnswerTest : public GuestFileCopyTest,
                       public testing::WithParamInterface<std::tuple<bool, wire::Operation, Status>> {};

TEST_P(LateAnswerTest, SaysWhetherThereIsSomethingToTakeBack) {
  const auto [is_restored, owed, status] = GetParam();
  Make();
  auto guest = OpenRaw(hvdef::class_id::kFileCopy);
  Agree(*guest, 1, 1);
  Copy("/tmp/a", "");
  Pump();
  std::vector<uint8_t> message;
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kBegin);
  if (owed == wire::Operation::kComplete) {
    Answer(*guest, message);
    EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kComplete);
  }
  if (is_restored) {
    copier_->Pause();
    const state::SavedState saved = state::SaveOf(*copier_);
    ASSERT_TRUE(state::RestoreOf(*copier_, saved).ok());
    EXPECT_EQ(state::SaveOf(*copier_), saved);
    copier_->Resume();
  } else {
    Advance(36 * kSecond);
  }
  EXPECT_EQ(Told().size(), 1u);
  Answer(*guest, message, status);
  if ((owed == wire::Operation::kBegin) == (status == Status::kOk)) {
    EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kCancel);
    Answer(*guest, message);
  }
  EXPECT_TRUE(Take(*guest).empty());
  // Others may ask again.
  Copy("/tmp/b", "");
  Pump();
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kBegin);
}
INSTANTIATE_TEST_SUITE_P(All, LateAnswerTest,
                         testing::Combine(testing::Bool(),
                                          testing::Values(wire::Operation::kBegin, wire::Operation::kComplete),
                                          testing::Values(Status::kOk, Status::kFail)));

// The guest of a restored machine has a file that nobody completes.
TEST_F(GuestFileCopyTest, ARestoredMachineTakesItBack) {
  Make();
  auto guest = OpenRaw(hvdef::class_id::kFileCopy);
  Agree(*guest, 1, 1);
  Copy("/tmp/a", "text");
  Pump();
  std::vector<uint8_t> message;
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kBegin);
  copier_->Pause();
  const state::SavedState saved = state::SaveOf(*copier_);
  ASSERT_TRUE(state::RestoreOf(*copier_, saved).ok());
  EXPECT_THAT(Told(), ElementsAre(HasSubstr("CANCELLED")));
  EXPECT_EQ(state::SaveOf(*copier_), saved);
  copier_->Resume();
  Pump();
  EXPECT_TRUE(Take(*guest).empty());
  Answer(*guest, message);
  EXPECT_EQ(TakeOperation(*guest, message), wire::Operation::kCancel);
}

}  // namespace
}  // namespace hvsdk::vsp
