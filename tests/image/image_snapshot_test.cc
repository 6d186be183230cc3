// SPDX-License-Identifier: Apache-2.0
// Disks in use of which snapshots are taken: what they had stays, what they get goes on, of all or of none.

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/image/disk_image.h"
#include "hvsdk/image/snapshot.h"
#include "tests/image/waited_request.h"

namespace hvsdk {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Disk = std::shared_ptr<ImageDisk>;

constexpr uint64_t kDiskBytes = 16 << 20;
constexpr uint64_t kStep = 64 << 10;

class ImageSnapshotTest : public testing::Test {
 protected:
  ImageSnapshotTest() {
    // Where flushes cost nothing, if there is such a place: there are hundreds.
    char pattern[] = "/dev/shm/hvsdk_snapshot_XXXXXX", on_disk[] = "/tmp/hvsdk_snapshot_XXXXXX";
    root_ = mkdtemp(access("/dev/shm", W_OK) == 0 ? pattern : on_disk);
    engine_ = *FileEngine::Create(FileEngineKind::kAuto);
  }
  ~ImageSnapshotTest() override { fs::remove_all(root_); }

  std::string Path(const std::string& name) const { return root_ + "/" + name; }
  Disk Make(const std::string& name, ImageFormat format = ImageFormat::kVhdx, uint32_t sector_bytes = 512) {
    const absl::Status made = CreateImage(
        Path(name),
        {.format = format, .disk_bytes = kDiskBytes, .block_bytes = 1 << 20, .logical_sector_bytes = sector_bytes},
        engine_);
    EXPECT_TRUE(made.ok()) << made;
    return Open(name, {.format = format});
  }
  Disk Open(const std::string& name, const ImageOptions& options) {
    auto opened = OpenImage(Path(name), options, engine_);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *opened : nullptr;
  }
  std::string OpenError(const std::string& name, const ImageOptions& options) {
    return OpenImage(Path(name), options, engine_).status().ToString();
  }
  absl::StatusOr<std::vector<Disk>> Take(const std::vector<ImageSnapshot>& wanted) {
    return SnapshotImages(
        wanted, [this](const absl::Status& status) { failures_.push_back(status.ToString()); }, engine_);
  }

  static BlockStatus Run(ImageDisk& disk, BlockOp op, uint64_t offset, std::vector<uint8_t>& bytes) {
    WaitedRequest request;
    const HostBuffer buffer{bytes.data(), bytes.size()};
    request.op = op;
    if (op != BlockOp::kFlush) {
      request.offset_bytes = offset;
      request.size_bytes = bytes.size();
    }
    if (op == BlockOp::kRead || op == BlockOp::kWrite) request.buffers = absl::MakeConstSpan(&buffer, 1);
    BlockRequest* const one = &request;
    disk.Submit(absl::MakeConstSpan(&one, 1));
    return request.Wait();
  }
  static BlockStatus Write(const Disk& disk, uint64_t offset, uint8_t byte) {
    std::vector<uint8_t> bytes(kStep, byte);
    return Run(*disk, BlockOp::kWrite, offset, bytes);
  }
  static BlockStatus Flush(const Disk& disk) {
    std::vector<uint8_t> nothing;
    return Run(*disk, BlockOp::kFlush, 0, nothing);
  }
  // The byte that all of a step has; -1: it has several.
  static int At(const Disk& disk, uint64_t offset) {
    std::vector<uint8_t> bytes(kStep, 0xEE);
    EXPECT_EQ(Run(*disk, BlockOp::kRead, offset, bytes), BlockStatus::kOk);
    return bytes == std::vector<uint8_t>(kStep, bytes[0]) ? bytes[0] : -1;
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(root_)) names.push_back(entry.path().filename());
    return names;
  }

  std::string root_;
  std::shared_ptr<FileEngine> engine_;
  std::vector<std::string> failures_;
};

TEST_F(ImageSnapshotTest, WhatItHadStaysAndWhatItGetsGoesOn) {
  for (const uint32_t sector_bytes : {512u, 4096u}) {
    SCOPED_TRACE(sector_bytes);
    const std::string name = absl::StrCat("disk", sector_bytes), next = name + ".avhdx";
    Disk disk = Make(name, ImageFormat::kVhdx, sector_bytes);
    EXPECT_EQ(Write(disk, 0, 1), BlockStatus::kOk);
    EXPECT_EQ(Write(disk, 3 << 20, 2), BlockStatus::kOk);
    EXPECT_THAT(OpenError(name, {.format = ImageFormat::kVhdx, .read_only = true}), HasSubstr("in use"));
    const BlockInfo before = disk->info();
    auto taken = Take({{disk, Path(next)}});
    ASSERT_TRUE(taken.ok()) << taken.status();
    const Disk old = disk;
    disk = (*taken)[0];
    EXPECT_EQ(disk->path(), Path(next));
    EXPECT_EQ(disk->info().id, before.id);
    EXPECT_EQ(disk->info().size_bytes, before.size_bytes);
    EXPECT_EQ(disk->info().logical_block_bytes, before.logical_block_bytes);
    EXPECT_EQ(disk->info().physical_block_bytes, before.physical_block_bytes);
    EXPECT_EQ(At(disk, 0), 1);
    EXPECT_EQ(At(disk, 3 << 20), 2);
    EXPECT_EQ(Write(disk, 3 << 20, 3), BlockStatus::kOk);
    EXPECT_EQ(Write(disk, 5 << 20, 4), BlockStatus::kOk);
    EXPECT_EQ(Flush(disk), BlockStatus::kOk);
    // Anybody may read the old one now, and nobody write it; not even who did.
    const Disk reader = Open(name, {.format = ImageFormat::kVhdx, .read_only = true});
    EXPECT_EQ(At(reader, 0), 1);
    EXPECT_EQ(At(reader, 3 << 20), 2);
    EXPECT_EQ(At(reader, 5 << 20), 0);
    EXPECT_THAT(OpenError(name, {.format = ImageFormat::kVhdx}), HasSubstr("in use"));
    EXPECT_THAT(OpenError(next, {.format = ImageFormat::kVhdx, .read_only = true}), HasSubstr("in use"));
    EXPECT_EQ(Write(old, 0, 9), BlockStatus::kReadOnly);
    EXPECT_EQ(At(old, 0), 1);
    EXPECT_EQ(Flush(old), BlockStatus::kOk);
  }
  EXPECT_THAT(failures_, testing::IsEmpty());
}

TEST_F(ImageSnapshotTest, SeveralOverEachOtherOpenAnew) {
  Disk disk = Make("0");
  for (int i = 1; i <= 4; ++i) {
    EXPECT_EQ(Write(disk, i * kStep, static_cast<uint8_t>(i)), BlockStatus::kOk);
    EXPECT_EQ(Write(disk, 0, static_cast<uint8_t>(i)), BlockStatus::kOk);
    auto taken = Take({{disk, Path(absl::StrCat(i))}});
    ASSERT_TRUE(taken.ok()) << taken.status();
    disk = (*taken)[0];
  }
  EXPECT_EQ(Write(disk, 0, 5), BlockStatus::kOk);
  disk.reset();
  for (int i = 0; i <= 4; ++i) {
    SCOPED_TRACE(i);
    disk = Open(absl::StrCat(i), {.format = ImageFormat::kVhdx, .read_only = true});
    ASSERT_NE(disk, nullptr);
    EXPECT_EQ(At(disk, 0), i + 1);
    for (int j = 1; j <= 4; ++j) EXPECT_EQ(At(disk, j * kStep), j <= i + 1 ? j : 0);
    disk.reset();
    const auto check = CheckImage(Path(absl::StrCat(i)), ImageFormat::kVhdx, false, engine_);
    ASSERT_TRUE(check.ok()) << check.status();
    EXPECT_THAT(check->faults, testing::IsEmpty());
  }
  // The folder as a whole may go elsewhere.
  fs::create_directory(Path("moved"));
  for (int i = 0; i <= 4; ++i) fs::rename(Path(absl::StrCat(i)), Path(absl::StrCat("moved/", i)));
  disk = Open("moved/4", {.format = ImageFormat::kVhdx});
  ASSERT_NE(disk, nullptr);
  EXPECT_EQ(At(disk, 2 * kStep), 2);
}

TEST_F(ImageSnapshotTest, OfAllOrOfNone) {
  std::vector<Disk> disks = {Make("a"), Make("b"), Make("c")};
  for (const Disk& disk : disks) EXPECT_EQ(Write(disk, 0, 1), BlockStatus::kOk);
  std::ofstream(Path("new_c")) << "somebody's";
  const std::vector<ImageSnapshot> wanted = {
      {disks[0], Path("new_a")}, {disks[1], Path("new_b")}, {disks[2], Path("new_c")}};
  EXPECT_THAT(Take(wanted).status().ToString(), testing::AllOf(HasSubstr("ALREADY_EXISTS"), HasSubstr("new_c")));
  EXPECT_THAT(Names(), testing::UnorderedElementsAre("a", "b", "c", "new_c"));
  EXPECT_THAT(Take({{disks[0], Path("new_a")}, {disks[1], Path("none/new_b")}}).status().ToString(),
              HasSubstr("NOT_FOUND"));
  // As before: written, and nobody else's.
  for (const Disk& disk : disks) EXPECT_EQ(Write(disk, 0, 2), BlockStatus::kOk);
  EXPECT_THAT(OpenError("a", {.format = ImageFormat::kVhdx, .read_only = true}), HasSubstr("in use"));
  fs::remove(Path("new_c"));
  auto taken = Take(wanted);
  ASSERT_TRUE(taken.ok()) << taken.status();
  for (const Disk& disk : *taken) EXPECT_EQ(Write(disk, 0, 3), BlockStatus::kOk);
  taken->clear();
  disks.clear();
  for (const std::string name : {"a", "b", "c"}) {
    EXPECT_EQ(At(Open(name, {.format = ImageFormat::kVhdx, .read_only = true}), 0), 2);
    EXPECT_EQ(At(Open("new_" + name, {.format = ImageFormat::kVhdx}), 0), 3);
  }
  EXPECT_THAT(failures_, testing::IsEmpty());
}

TEST_F(ImageSnapshotTest, AHostThatIsFullLeavesAllAsItWas) {
  const Disk disk = Make("disk");
  EXPECT_EQ(Write(disk, 0, 1), BlockStatus::kOk);
  EXPECT_TRUE(disk->Settle().ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit little{1 << 20, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &little);
  const absl::Status full = Take({{disk, Path("new")}}).status();
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_THAT(full.ToString(), HasSubstr("/new'"));
  EXPECT_THAT(Names(), testing::UnorderedElementsAre("disk"));
  EXPECT_EQ(Write(disk, 0, 2), BlockStatus::kOk);
  EXPECT_TRUE(Take({{disk, Path("new")}}).ok());
}

TEST_F(ImageSnapshotTest, DisksThatCannotHaveOne) {
  Make("vhdx").reset();
  std::ofstream(Path("raw")) << std::string(kDiskBytes, 'x');
  const struct {
    Disk disk;
    const char* error;
  } cases[] = {{Open("raw", {.format = ImageFormat::kRaw}), "this is a raw disk; \"hvimg convert\""},
               {Make("vhd", ImageFormat::kVhd), "this is a VHD"},
               {Open("vhdx", {.read_only = true}), "only read"}};
  const Disk good = Make("good");
  for (const auto& each : cases) {
    EXPECT_THAT(CheckSnapshot(*each.disk).ToString(), HasSubstr(each.error));
    EXPECT_THAT(Take({{good, Path("new")}, {each.disk, Path("other")}}).status().ToString(), HasSubstr(each.error));
    EXPECT_THAT(Names(), testing::UnorderedElementsAre("vhdx", "raw", "vhd", "good"));
  }
}

// As many as can be opened again, and no more.
TEST_F(ImageSnapshotTest, AChainHasAnEnd) {
  Disk disk = Make("0");
  EXPECT_EQ(Write(disk, 0, 7), BlockStatus::kOk);
  int last = 0;
  for (; CheckSnapshot(*disk).ok(); ++last) {
    ASSERT_LT(last, 100);
    auto taken = Take({{disk, Path(absl::StrCat(last + 1))}});
    ASSERT_TRUE(taken.ok()) << taken.status();
    disk = (*taken)[0];
  }
  EXPECT_EQ(last, 63);
  EXPECT_THAT(CheckSnapshot(*disk).ToString(), HasSubstr("there are 64 images"));
  disk.reset();
  EXPECT_EQ(At(Open(absl::StrCat(last), {.format = ImageFormat::kVhdx}), 0), 7);
}

}  // namespace
}  // namespace hvsdk
