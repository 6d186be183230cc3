// SPDX-License-Identifier: Apache-2.0
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/vmm/config.h"
#include "hvsdk/vmm/networks.h"

namespace hvsdk::vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MachineConfigTest, ReadsAMachine) {
  const auto config = ParseMachineConfig(R"pb(
    kernel: "vmlinuz"
    initrd: "initrd.img"
    cmdline: "quiet"
    memory_mib: 4096
    cpus: 4
    backend: "kvm"
    disks { path: "a.img" }
    disks { path: "b.img" format: "raw" read_only: true }
    serial { file: "log" }
    no_reboot: true
  )pb");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(ValidateMachineConfig(*config).ok());
  EXPECT_EQ(MemoryMib(*config), 4096u);
  EXPECT_EQ(Cpus(*config), 4u);
  EXPECT_EQ(config->disks_size(), 2);
  EXPECT_TRUE(config->disks(1).read_only());
  EXPECT_EQ(config->serial().file(), "log");
}

TEST(MachineConfigTest, Defaults) {
  const auto config = ParseMachineConfig("kernel: \"vmlinuz\"");
  ASSERT_TRUE(config.ok());
  EXPECT_TRUE(ValidateMachineConfig(*config).ok());
  EXPECT_EQ(MemoryMib(*config), 512u);
  EXPECT_EQ(Cpus(*config), 2u);
}

TEST(MachineConfigTest, Video) {
  const auto video_of = [](const char* text) {
    MachineConfig config;
    config.set_kernel("k");
    config.set_video(text);
    const absl::Status valid = ValidateMachineConfig(config);
    EXPECT_EQ(valid.ok(), VideoOf(config).ok());
    if (!valid.ok()) return std::string(valid.message());
    const auto video = *VideoOf(config);
    return video.has_value() ? std::to_string(video->width) + " " + std::to_string(video->height) : "none";
  };
  EXPECT_EQ(video_of(""), "none");
  EXPECT_EQ(video_of("none"), "none");
  EXPECT_EQ(video_of("1920x1080"), "1920 1080");
  EXPECT_EQ(video_of("3840x2160"), "3840 2160");
  for (const char* bad : {"1920", "x", "1920x", "1920x1080x32", "-1x600", "1920 x 1080", "4294968576x1080", "all"}) {
    EXPECT_THAT(video_of(bad), HasSubstr("video: \"")) << bad;
  }
  for (const char* bad : {"639x480", "640x479", "3841x2160", "3840x2161", "0x0"}) {
    EXPECT_THAT(video_of(bad), HasSubstr("is not between")) << bad;
  }
  MachineConfig config;
  config.set_kernel("k");
  config.set_screenshot("a.png");
  EXPECT_THAT(std::string(ValidateMachineConfig(config).message()), HasSubstr("screenshot: "));
  config.set_video("800x600");
  EXPECT_TRUE(ValidateMachineConfig(config).ok());
  config.set_deterministic(true);
  EXPECT_THAT(std::string(ValidateMachineConfig(config).message()), HasSubstr("without video"));
}

TEST(MachineConfigTest, ErrorsAreOneLineWithItsPlace) {
  for (const char* text : {"kernel: \"k\"\nfrobnicate: 1", "kernel: 1", "cpus: -1", "disks { path: \"a\" size: 1 }",
                           "memory_mib: 99999999999", "kernel: \"", "\xff\xfe", "{"}) {
    const auto config = ParseMachineConfig(text);
    ASSERT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(config.status().message()), testing::MatchesRegex("[0-9]+:[0-9]+: [^\n]*")) << text;
  }
  EXPECT_THAT(std::string(ParseMachineConfig("kernel: \"k\"\nfrobnicate: 1").status().message()),
              testing::AllOf(HasSubstr("2:"), HasSubstr("frobnicate")));
}

TEST(MachineConfigTest, ImpossibleValuesNameTheirField) {
  const struct {
    const char* text;
    const char* field;
  } kCases[] = {
      {"", "kernel:"},
      {"kernel: \"k\" memory_mib: 0", "memory:"},
      {"kernel: \"k\" memory_mib: 1", "memory:"},
      {"kernel: \"k\" memory_mib: 4194305", "memory:"},
      {"kernel: \"k\" cpus: 0", "cpus:"},
      {"kernel: \"k\" memory_mib: 512 memory_max_mib: 511", "memory: max:"},
      {"kernel: \"k\" memory_max_mib: 4194305", "memory: max:"},
      {"kernel: \"k\" memory_max_mib: 1024 integration: \"shutdown\"", "memory: max:"},
      {"kernel: \"k\" integration: \"time-sync,time-samples\"", "integration: time-sync sets"},
      {"kernel: \"k\" memory_max_mib: 1024 deterministic: true", "deterministic:"},
      {"kernel: \"k\" cpus: 1025", "cpus:"},
      {"kernel: \"k\" io_threads: 64", "io-threads:"},
      {"kernel: \"k\" backend: \"xen\"", "backend:"},
      {"kernel: \"k\" processor: \"8086\"", "processor:"},
      {"kernel: \"k\" disks {}", "disk:"},
      {"kernel: \"k\" disks { path: \"a\" format: \"qcow2\" }", "qcow2"},
      {"kernel: \"k\" cmdline: \"a\\000b\"", "cmdline: contains a zero byte"},
      {"kernel: \"k\\000b\"", "kernel: contains a zero byte"},
      {"kernel: \"k\" initrd: \"a\\000b\"", "initrd: contains a zero byte"},
      {"kernel: \"k\" disks { path: \"a\\000b\" }", "disk: contains a zero byte"},
      {"kernel: \"k\" serial { file: \"a\\000b\" }", "serial: contains a zero byte"},
      {"kernel: \"k\" trace: \"a\\000b\"", "trace: contains a zero byte"},
      {"kernel: \"k\" networks {}", "net: none of user"},
      {"kernel: \"k\" networks { user {} mac: \"02:15:5d:00:00:0g\" }", "net: mac:"},
      {"kernel: \"k\" networks { user {} mac: \"03:15:5d:00:00:01\" }", "net: mac:"},
      {"kernel: \"k\" networks { user {} mac: \"00:00:00:00:00:00\" }", "net: mac:"},
      {"kernel: \"k\" networks { user { hostfwd: \"tcp:1\" } }", "net: hostfwd:"},
      {"kernel: \"k\" networks { user { dns: \"1.2.3\" } }", "net: dns:"},
      {"kernel: \"k\" networks { tap {} }", "net: tap:"},
      {"kernel: \"k\" networks { socket { path: \"a\\000b\" } }", "net: path: contains a zero byte"},
      {"kernel: \"k\" networks { user {} pcap: \"a\\000b\" }", "net: pcap: contains a zero byte"},
      {"kernel: \"k\" networks { switch { vlan: 4095 } }", "net: vlan:"},
      {"kernel: \"k\" networks { user {} name: \"a\" } disks { path: \"d\" name: \"a\" }", "name:"},
      {"kernel: \"k\" deterministic: true networks { user {} }", "deterministic:"},
      {"kernel: \"k\" deterministic: true sockets: \"s\"", "deterministic:"},
      {"kernel: \"k\" sockets: \"a\\000b\"", "sockets:"},
      {"kernel: \"k\" input: \"keyboard,\"", "input: \"\" is none of"},
      {"kernel: \"k\" input: \"mouse\" keyboard_layout: \"us\"", "keyboard_layout: the machine has no keyboard"},
      {"kernel: \"k\" input: \"all\" keyboard_layout: \"../de\"", "keyboard_layout: \"../de\" is no keyboard layout"},
      {"kernel: \"k\" deterministic: true input: \"all\"", "deterministic:"},
      {"kernel: \"k\" smbios { uuid: \"42\" }", "smbios: uuid:"},
      {"kernel: \"k\" smbios { serial: \"a\\nb\" }", "smbios: serial:"},
  };
  for (const auto& c : kCases) {
    const auto config = ParseMachineConfig(c.text);
    ASSERT_TRUE(config.ok()) << c.text;
    const absl::Status status = ValidateMachineConfig(*config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.field));
  }
}

// A state that carries it could never be read.
TEST(MachineConfigTest, NamesAreText) {
  MachineConfig config;
  config.set_kernel("a path \xFF");
  config.set_cmdline("caf\xE9");
  EXPECT_TRUE(ValidateMachineConfig(config).ok());
  DiskConfig& disk = *config.add_disks();
  disk.set_path("\xFF");
  EXPECT_TRUE(ValidateMachineConfig(config).ok());
  for (const char* name : {"caf\xE9", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "cut \xC3"}) {
    disk.set_name(name);
    EXPECT_EQ(ValidateMachineConfig(config).message(), "name: is not UTF-8");
  }
}

TEST(MachineConfigTest, IdentityWithItsDefaults) {
  const auto config = ParseMachineConfig(R"pb(
    kernel: "k"
    smbios { uuid: "4C4C4544-0042-3510-8052-b4c04f4a3132" product: "" serial: "S" asset_tag: "A" }
  )pb");
  ASSERT_TRUE(config.ok()) << config.status();
  const auto identity = SmbiosOf(*config);
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->uuid, hvdef::MakeGuid("4c4c4544-0042-3510-8052-b4c04f4a3132"));
  EXPECT_EQ(identity->manufacturer, "Microsoft Corporation");
  EXPECT_EQ(identity->product, "");
  EXPECT_EQ(identity->serial, "S");
  EXPECT_EQ(identity->asset_tag, "A");
  EXPECT_EQ(SmbiosOf(MachineConfig())->product, "Virtual Machine");
}

// The same at every start, no two alike, and another one at the other end of a socket.
TEST(MachineConfigTest, AddressesFollowFromTheRest) {
  const auto macs_of = [](const char* text) {
    MachineConfig config = *ParseMachineConfig(text);
    ChooseMacs(config);
    EXPECT_TRUE(config.kernel().empty());
    std::vector<std::string> macs;
    for (const NetworkConfig& network : config.networks()) {
      EXPECT_TRUE(ParseMac(network.mac()).ok()) << network.mac();
      macs.push_back(network.mac());
    }
    return macs;
  };
  const auto three = macs_of("networks { user {} } networks { user {} } networks { socket { path: \"a\" } }");
  EXPECT_EQ(three, macs_of("networks { user {} } networks { user {} } networks { socket { path: \"a\" } }"));
  EXPECT_EQ(std::set<std::string>(three.begin(), three.end()).size(), 3u);
  EXPECT_NE(macs_of("networks { socket { path: \"a\" } }"),
            macs_of("networks { socket { path: \"a\" listen: true } }"));
  EXPECT_EQ(macs_of("networks { user {} mac: \"02:00:00:00:00:01\" }")[0], "02:00:00:00:00:01");
}

TEST(MachineConfigTest, MemorySizes) {
  const struct {
    const char* text;
    int64_t mib;  // -1: refused
  } kCases[] = {{"512M", 512},
                {"4G", 4096},
                {"1T", 1 << 20},
                {"65536K", 64},
                {"536870912", 512},
                {"4g", 4096},
                {"", -1},
                {"M", -1},
                {"-1M", -1},
                {"+1M", -1},
                {" 1M", -1},
                {"1M ", -1},
                {"1.5G", -1},
                {"1MB", -1},
                {"0x100M", -1},
                {"1000", -1},
                {"1025K", -1},
                {"0", 0},
                {"99999999999999999999G", -1},
                {"18446744073709551615T", -1},
                {"17592186044416G", -1}};
  for (const auto& c : kCases) {
    const auto mib = ParseMemoryMib(c.text);
    EXPECT_EQ(mib.ok() ? int64_t{*mib} : -1, c.mib) << c.text;
  }
}

}  // namespace
}  // namespace hvsdk::vmm
