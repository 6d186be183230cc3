// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/kernel_loader.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/boot/kernel_images.h"
#include "tests/random_seed.h"

namespace hvsdk::boot {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMib = 1 << 20;

class KernelLoaderTest : public ::testing::Test {
 protected:
  void Build(uint64_t memory_bytes) {
    layout_ = *MemoryLayout::ForSize(memory_bytes);
    host_.assign(memory_bytes, 0);
    memory_ = std::make_unique<GuestMemory>();
    ASSERT_TRUE(memory_->AddRange(0, absl::MakeSpan(host_)).ok());
  }
  absl::StatusOr<InitialState> Load(const std::vector<uint8_t>& kernel, const std::string& command_line = "",
                                    const std::vector<uint8_t>* initrd = nullptr) {
    if (memory_ == nullptr) Build(64 * kMib);
    const MemorySource kernel_source(kernel);
    const MemorySource initrd_source(initrd != nullptr ? absl::MakeConstSpan(*initrd) : absl::Span<const uint8_t>());
    LoadRequest request{.kernel = kernel_source, .command_line = command_line};
    request.rng_seed.fill(0x5C);
    if (initrd != nullptr) request.initrd = &initrd_source;
    return LoadKernel(request, layout_, *memory_, blame_);
  }
  template <typename T>
  T At(uint64_t gpa) {
    T value{};
    EXPECT_TRUE(memory_->ReadObject(gpa, value));
    return value;
  }

  MemoryLayout layout_;
  std::vector<uint8_t> host_;
  std::unique_ptr<GuestMemory> memory_;
  LoadInput blame_{};
};

TEST_F(KernelLoaderTest, BzImage) {
  const std::vector<uint8_t> kernel = MakeBzImage(), initrd(5000, 0xAB);
  const auto state = Load(kernel, "console=ttyS0", &initrd);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->mode, InitialState::Mode::kLong);
  EXPECT_EQ(state->rip, kImageLoad + 0x200);
  EXPECT_EQ(state->rsi, kBootParamsGpa);
  EXPECT_TRUE(std::equal(kernel.begin() + 1024, kernel.end(), host_.begin() + kImageLoad));
  EXPECT_EQ(At<uint32_t>(kBootParamsGpa + 0x202), 0x53726448u);
  EXPECT_EQ(At<uint8_t>(kBootParamsGpa + 0x1EF), 0);  // the sentinel
  EXPECT_EQ(At<uint8_t>(kBootParamsGpa + 0x210), 0xFF);
  EXPECT_EQ(At<uint64_t>(kBootParamsGpa + 0x70), kAcpiTablesGpa);
  EXPECT_EQ(At<uint8_t>(kBootParamsGpa + 0x1E8), 3);
  EXPECT_EQ(At<uint32_t>(kBootParamsGpa + 0x228), kCommandLineGpa);
  EXPECT_STREQ(reinterpret_cast<const char*>(&host_[kCommandLineGpa]), "console=ttyS0");
  const uint32_t ramdisk = At<uint32_t>(kBootParamsGpa + 0x218);
  EXPECT_EQ(At<uint32_t>(kBootParamsGpa + 0x21C), 5000u);
  EXPECT_EQ(ramdisk % 4096, 0u);
  EXPECT_EQ(host_[ramdisk + 4999], 0xAB);
  const uint64_t seed = At<uint64_t>(kBootParamsGpa + 0x250);
  EXPECT_EQ(At<uint32_t>(seed + 8), 9u);
  EXPECT_EQ(At<uint32_t>(seed + 12), 32u);
  EXPECT_EQ(host_[seed + 16], 0x5C);
  // Identity page tables of large pages.
  EXPECT_EQ(At<uint64_t>(kPageTablesGpa) & ~uint64_t{0xFFF}, kPageTablesGpa + 0x1000);
  EXPECT_EQ(At<uint64_t>(kPageTablesGpa + 0x2000 + 8 * (kImageLoad >> 21)), kImageLoad | 0x83);
}

// The size is in paragraphs, and the last need not be whole: Debian's memtest86+ ends 8 bytes before it.
TEST_F(KernelLoaderTest, ALastParagraphThatIsNotWhole) {
  for (size_t missing = 1; missing < 16; ++missing) {
    Build(64 * kMib);
    std::vector<uint8_t> kernel = MakeBzImage();
    kernel.resize(kernel.size() - missing);
    ASSERT_TRUE(Load(kernel).ok()) << missing;
    const auto loaded = host_.begin() + kImageLoad;
    EXPECT_TRUE(std::equal(kernel.begin() + 1024, kernel.end(), loaded));
    EXPECT_TRUE(std::all_of(loaded + (65536 - missing), loaded + 65536, [](uint8_t byte) { return byte == 0; }));
  }
}

TEST_F(KernelLoaderTest, WhereABzImageGoes) {
  const auto rip = [&](bool relocatable, uint64_t preferred, uint32_t alignment) {
    Build(64 * kMib);
    std::vector<uint8_t> kernel = MakeBzImage();
    kernel[0x234] = relocatable;
    Store<uint64_t>(&kernel[0x258], preferred);
    Store<uint32_t>(&kernel[0x230], alignment);
    const auto state = Load(kernel);
    if (!state.ok()) return uint64_t{0};
    EXPECT_EQ(At<uint32_t>(kBootParamsGpa + 0x214), state->rip - 0x200) << "code32_start";
    return state->rip - 0x200;
  };
  EXPECT_EQ(rip(true, 16 * kMib, 2 * kMib), 16 * kMib);
  EXPECT_EQ(rip(true, 0, 2 * kMib), 2 * kMib) << "no preference: the lowest that suits its alignment";
  EXPECT_EQ(rip(true, 0, 0), kMib);
  EXPECT_EQ(rip(false, 16 * kMib, 2 * kMib), kMib) << "it moves itself";
  EXPECT_EQ(rip(false, 0, 0), kMib);
  EXPECT_EQ(rip(false, 61 * kMib, 0), 0u) << "4 MiB from there are more than the machine has";
  EXPECT_EQ(blame_, LoadInput::kMemory);
  EXPECT_EQ(rip(true, 0, 0xFFFFFFFF), 0u);
}

TEST_F(KernelLoaderTest, PvhElf) {
  for (bool is64 : {false, true}) {
    const std::vector<uint8_t> kernel = MakePvhElf(is64), initrd(123, 0xCD);
    Build(64 * kMib);
    const auto state = Load(kernel, "tap", &initrd);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(state->mode, InitialState::Mode::kProtected);
    EXPECT_EQ(state->rip, kElfLoad + 0x10);
    EXPECT_EQ(state->rbx, kStartInfoGpa);
    EXPECT_TRUE(std::equal(kernel.begin() + 0x1000, kernel.end(), host_.begin() + kElfLoad));
    EXPECT_EQ(At<uint32_t>(kStartInfoGpa), 0x336EC578u);
    EXPECT_EQ(At<uint32_t>(kStartInfoGpa + 12), 1u);
    const uint64_t module = At<uint64_t>(kStartInfoGpa + 16);
    EXPECT_EQ(host_[At<uint64_t>(module)], 0xCD);
    EXPECT_EQ(At<uint64_t>(module + 8), 123u);
    EXPECT_EQ(At<uint64_t>(kStartInfoGpa + 24), kCommandLineGpa);
    EXPECT_EQ(At<uint64_t>(kStartInfoGpa + 32), kAcpiTablesGpa);
    EXPECT_EQ(At<uint32_t>(kStartInfoGpa + 48), 3u);
    EXPECT_EQ(At<uint64_t>(At<uint64_t>(kStartInfoGpa + 40) + 2 * 24), kMib);
  }
}

TEST_F(KernelLoaderTest, SaysWhatIsWrong) {
  const auto expect = [&](const std::vector<uint8_t>& kernel, const char* what) {
    const auto state = Load(kernel);
    EXPECT_EQ(state.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(state.status().message()), HasSubstr(what));
    EXPECT_EQ(blame_, LoadInput::kKernel);
  };
  expect({}, "too short");
  expect(std::vector<uint8_t>(65536), "neither a Linux bzImage nor an ELF");
  std::vector<uint8_t> image = MakeBzImage();
  image.resize(image.size() - 16);
  expect(image, "truncated");
  image.resize(700);
  expect(image, "truncated");
  image = MakeBzImage();
  Store<uint16_t>(&image[0x206], 0x20B);
  expect(image, "boot protocol 2.11");
  image = MakePvhElf(true);
  image.resize(0x1800);
  expect(image, "truncated");
  image = MakePvhElf(true);
  image[0x21C] = 17;
  expect(image, "without a PVH entry");
  image = MakePvhElf(true);
  Store<uint16_t>(&image[18], 183);
  expect(image, "not for this processor");
}

TEST_F(KernelLoaderTest, BlamesTheRightInput) {
  Build(17 * kMib);
  EXPECT_FALSE(Load(MakeBzImage()).ok());
  EXPECT_EQ(blame_, LoadInput::kMemory);
  Build(64 * kMib);
  EXPECT_FALSE(Load(MakeBzImage(), std::string(3000, 'x')).ok());
  EXPECT_EQ(blame_, LoadInput::kCommandLine);
  const std::vector<uint8_t> initrd(50 * kMib);
  EXPECT_FALSE(Load(MakeBzImage(), "", &initrd).ok());
  EXPECT_EQ(blame_, LoadInput::kInitrd);
}

TEST_F(KernelLoaderTest, InitrdThatJustFits) {
  Build(32 * kMib);
  const std::vector<uint8_t> fits(12 * kMib, 1), too_big(12 * kMib + 1, 1);
  EXPECT_TRUE(Load(MakeBzImage(), "", &fits).ok());
  EXPECT_FALSE(Load(MakeBzImage(), "", &too_big).ok());
}

// Any header is answered by a load or an error; AddressSanitizer watches the edges.
TEST_F(KernelLoaderTest, HostileHeaders) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  Build(24 * kMib);
  const std::vector<uint8_t> originals[] = {MakeBzImage(), MakePvhElf(true), MakePvhElf(false)};
  int loaded = 0;
  for (int i = 0; i < 30000; ++i) {
    std::vector<uint8_t> image = originals[i % 3];
    const size_t start = i % 3 == 0 ? 0x1F1 : 0;
    const size_t end = i % 3 == 0 ? 0x290 : 0x230;
    for (int flips = 1 + random() % 4; flips > 0; --flips) {
      const uint64_t interesting[] = {0, 1, 0x7F, 0xFF, 0x80, random()};
      image[start + random() % (end - start)] = static_cast<uint8_t>(interesting[random() % 6]);
    }
    if (random() % 8 == 0) image.resize(random() % image.size());
    loaded += Load(image).ok();
  }
  EXPECT_GT(loaded, 0);
}

}  // namespace
}  // namespace hvsdk::boot
