// SPDX-License-Identifier: Apache-2.0
// hvimg: makes, describes, converts, compares, checks, resizes and compacts disk images, and merges them with their parents.
//
// Exit status: 0; 1: images differ, or one has faults; 2: a mistake of the user's, or a host that refuses; each with
// one line on standard error.

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "convert.h"
#include "hvsdk/image/disk_image.h"
#include "unfinished_file.h"

namespace hvimg {
namespace {

using hvsdk::ImageFormat;

constexpr char kUsage[] = R"(hvimg makes, describes and converts disk images: raw, VHD and VHDX.

usage:
  hvimg info    [--format=FORMAT] [--json] IMAGE
  hvimg create  --size=BYTES [--format=FORMAT] [--type=TYPE] [--block=BYTES] [--sector=BYTES] IMAGE
  hvimg create  --parent=IMAGE [--size=BYTES] [--format=FORMAT] [--block=BYTES] IMAGE
  hvimg convert [--from=FORMAT] [--format=FORMAT] [--type=TYPE] [--block=BYTES] [--sector=BYTES] IMAGE NEW
  hvimg compare IMAGE IMAGE
  hvimg check   [--format=FORMAT] IMAGE
  hvimg repair  [--format=FORMAT] IMAGE
  hvimg resize  --size=BYTES [--format=FORMAT] IMAGE
  hvimg compact [--format=FORMAT] IMAGE
  hvimg merge   [--format=FORMAT] IMAGE
  hvimg rebase  --parent=IMAGE [--format=FORMAT] IMAGE

  FORMAT   raw, vhd or vhdx; without it an image's is found out, and a new one's is vhdx
  TYPE     dynamic, unless it says fixed; one with a parent is differencing
  BYTES    a number, with K, M, G or T behind it for powers of 1024
  repair   replays the log of an image that was not closed, and puts a lost footer in its place
  convert  writes NEW.part, which gets its name once it is whole
  compact  lets go of blocks of zeroes, and makes the file as short as it can be
  merge    copies what the image has into its parent, and leaves the image as it is
  rebase   gives the image another parent, or says where the one that it has is now
)";

struct Arguments {
  std::map<std::string, std::string> flags;
  std::vector<std::string> paths;
  std::shared_ptr<hvsdk::FileEngine> engine;

  absl::StatusOr<ImageFormat> Format(const std::string& flag, ImageFormat otherwise) const {
    const auto found = flags.find(flag);
    if (found == flags.end()) return otherwise;
    auto format = hvsdk::ParseImageFormat(found->second);
    if (!format.ok()) return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", format.status().message()));
    return format;
  }
  // 0: it is not given.
  absl::StatusOr<uint64_t> Bytes(const std::string& flag) const {
    const auto found = flags.find(flag);
    if (found == flags.end()) return 0;
    std::string text = found->second;
    int shift = 0;
    if (!text.empty() && std::isalpha(static_cast<unsigned char>(text.back())) != 0) {
      const size_t unit =
          std::string("KMGT").find(static_cast<char>(std::toupper(static_cast<unsigned char>(text.back()))));
      if (unit == std::string::npos) text = "";
      shift = 10 * static_cast<int>(unit + 1);
      if (!text.empty()) text.pop_back();
    }
    uint64_t value = 0;
    if (!absl::SimpleAtoi(text, &value) || value == 0 || value > ~uint64_t{0} >> 1 >> shift) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, "=", found->second, ": is no number of bytes, as 512, 64K or 20G"));
    }
    return value << shift;
  }
  bool Has(const std::string& flag) const { return flags.contains(flag); }
};

#define HVIMG_ASSIGN(declaration, expression)                              \
  auto declaration##_or = (expression);                                    \
  if (!declaration##_or.ok()) return std::move(declaration##_or).status(); \
  auto declaration = *std::move(declaration##_or)

std::string Size(uint64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  double value = static_cast<double>(bytes);
  for (; unit < 4 && value >= 1024; ++unit) value /= 1024;
  return unit == 0 ? absl::StrCat(bytes, " bytes") : absl::StrFormat("%d bytes (%.4g %s)", bytes, value, kUnits[unit]);
}

// A bar on a terminal, and nothing elsewhere.
class Progress {
 public:
  Progress() : is_terminal_(isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (shown_ >= 0) std::fprintf(stderr, "\r%*s\r", kWidth + 8, "");
  }
  void operator()(uint64_t done, uint64_t all) {
    const int percent = all == 0 ? 100 : static_cast<int>(static_cast<double>(done) * 100 / static_cast<double>(all));
    if (!is_terminal_ || percent == shown_) return;
    shown_ = percent;
    const std::string bar(static_cast<size_t>(percent * kWidth / 100), '=');
    std::fprintf(stderr, "\r[%-*s] %3d %%", kWidth, bar.c_str(), percent);
    std::fflush(stderr);
  }

 private:
  static constexpr int kWidth = 50;
  const bool is_terminal_;
  int shown_ = -1;
};

// As a JSON string.
std::string Quote(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&quoted, "\\u%04x", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

// An object of one line, for programs. What the image does not have is left out.
void PrintJson(const hvsdk::ImageDescription& image) {
  std::string text = absl::StrFormat(
      R"({"format":%s,"type":%s,"disk_bytes":%d,"file_bytes":%d,"logical_sector_bytes":%d,"physical_sector_bytes":%d)",
      Quote(std::string(hvsdk::ImageFormatName(image.format))), Quote(image.kind), image.disk_bytes, image.file_bytes,
      image.logical_sector_bytes, image.physical_sector_bytes);
  if (image.block_bytes != 0) absl::StrAppendFormat(&text, R"(,"block_bytes":%d)", image.block_bytes);
  if (!image.id.empty()) absl::StrAppendFormat(&text, R"(,"id":%s)", Quote(image.id));
  if (!image.creator.empty()) absl::StrAppendFormat(&text, R"(,"creator":%s)", Quote(image.creator));
  if (!image.parents.empty()) {
    const auto quote = [](std::string* to, const std::string& parent) { to->append(Quote(parent)); };
    absl::StrAppendFormat(&text, R"(,"parents":[%s])", absl::StrJoin(image.parents, ",", quote));
  }
  absl::StrAppendFormat(&text, R"(,"needs_replay":%s})", image.needs_replay ? "true" : "false");
  std::printf("%s\n", text.c_str());
}

absl::Status Info(const Arguments& arguments) {
  HVIMG_ASSIGN(format, arguments.Format("format", ImageFormat::kDetect));
  HVIMG_ASSIGN(image, hvsdk::DescribeImage(arguments.paths[0], format, arguments.engine));
  if (arguments.Has("json")) {
    PrintJson(image);
    return absl::OkStatus();
  }
  std::printf("format:   %s\n", std::string(hvsdk::ImageFormatName(image.format)).c_str());
  std::printf("kind:     %s\n", image.kind.c_str());
  std::printf("disk:     %s\n", Size(image.disk_bytes).c_str());
  std::printf("file:     %s\n", Size(image.file_bytes).c_str());
  if (image.block_bytes != 0) std::printf("blocks:   %s\n", Size(image.block_bytes).c_str());
  std::printf("sectors:  %u bytes logical, %u physical\n", image.logical_sector_bytes, image.physical_sector_bytes);
  if (!image.id.empty()) std::printf("id:       %s\n", image.id.c_str());
  if (!image.creator.empty()) std::printf("creator:  %s\n", image.creator.c_str());
  for (const std::string& parent : image.parents) std::printf("parent:   %s\n", parent.c_str());
  if (image.needs_replay) std::printf("log:      must be replayed\n");
  return absl::OkStatus();
}

absl::StatusOr<hvsdk::ImageCreateOptions> CreateOptions(const Arguments& arguments) {
  hvsdk::ImageCreateOptions options;
  HVIMG_ASSIGN(format, arguments.Format("format", ImageFormat::kVhdx));
  HVIMG_ASSIGN(size, arguments.Bytes("size"));
  HVIMG_ASSIGN(block, arguments.Bytes("block"));
  HVIMG_ASSIGN(sector, arguments.Bytes("sector"));
  if ((block | sector) >> 32 != 0) return absl::InvalidArgumentError("--block, --sector: too large");
  if (format == ImageFormat::kRaw && (block | sector) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(block != 0 ? "--block" : "--sector", ": a raw image has no place for it"));
  }
  options.format = format;
  options.disk_bytes = size;
  options.block_bytes = static_cast<uint32_t>(block);
  options.logical_sector_bytes = static_cast<uint32_t>(sector);
  if (arguments.Has("parent")) options.parent = arguments.flags.at("parent");
  const std::string otherwise = options.parent.empty() ? "dynamic" : "differencing";
  const std::string type = arguments.Has("type") ? arguments.flags.at("type") : otherwise;
  if (type != "fixed" && type != "dynamic" && type != "differencing") {
    return absl::InvalidArgumentError(absl::StrCat("--type=", type, ": is neither fixed, dynamic nor differencing"));
  }
  if ((type == "differencing") == options.parent.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--type=", type, options.parent.empty() ? ": needs --parent" : ": has no parent"));
  }
  options.is_fixed = type == "fixed";
  return options;
}

absl::Status Create(const Arguments& arguments) {
  HVIMG_ASSIGN(options, CreateOptions(arguments));
  if (options.disk_bytes == 0 && options.parent.empty()) {
    return absl::InvalidArgumentError("create needs --size or --parent");
  }
  return hvsdk::CreateImage(arguments.paths[0], options, arguments.engine);
}

absl::StatusOr<std::shared_ptr<hvsdk::ImageDisk>> OpenForReading(const std::string& path, ImageFormat format,
                                                                 const Arguments& arguments) {
  hvsdk::ImageOptions options;
  options.format = format;
  options.read_only = true;
  options.follow_parents = true;
  return hvsdk::OpenImage(path, options, arguments.engine);
}

absl::Status Convert(const Arguments& arguments) {
  HVIMG_ASSIGN(from, arguments.Format("from", ImageFormat::kDetect));
  HVIMG_ASSIGN(source, OpenForReading(arguments.paths[0], from, arguments));
  HVIMG_ASSIGN(options, CreateOptions(arguments));
  options.disk_bytes = source->info().size_bytes;
  if (options.logical_sector_bytes == 0 && options.format == ImageFormat::kVhdx) {
    options.logical_sector_bytes = source->info().logical_block_bytes;
  }
  HVIMG_ASSIGN(unfinished, UnfinishedFile::Create(arguments.paths[1], options, arguments.engine));
  absl::Status status;
  {
    hvsdk::ImageOptions written;
    written.format = options.format;
    auto target = hvsdk::OpenImage(unfinished.path(), written, arguments.engine);
    Progress progress;
    const uint64_t all = source->info().size_bytes;
    status = target.ok() ? Copy(*source, **target, [&](uint64_t done) { progress(done, all); }) : target.status();
  }
  if (status.ok()) return unfinished.Finish();
  return absl::Status(status.code(),
                      absl::StrCat(arguments.paths[0], " to ", arguments.paths[1], ": ", status.message()));
}

absl::Status CompareImages(const Arguments& arguments) {
  HVIMG_ASSIGN(a, OpenForReading(arguments.paths[0], ImageFormat::kDetect, arguments));
  HVIMG_ASSIGN(b, OpenForReading(arguments.paths[1], ImageFormat::kDetect, arguments));
  Progress progress;
  const uint64_t all = std::max(a->info().size_bytes, b->info().size_bytes);
  const absl::Status status = Compare(*a, *b, [&](uint64_t done) { progress(done, all); });
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(arguments.paths[0], ", ", arguments.paths[1], ": ", status.message()));
}

absl::Status CheckOrRepair(const Arguments& arguments, bool repair) {
  HVIMG_ASSIGN(format, arguments.Format("format", ImageFormat::kDetect));
  HVIMG_ASSIGN(check, hvsdk::CheckImage(arguments.paths[0], format, repair, arguments.engine));
  if (check.was_replayed) std::printf("its log was replayed\n");
  if (check.footer_was_written) std::printf("its footer was put in its place\n");
  for (const std::string& fault : check.faults) std::printf("%s\n", fault.c_str());
  if (check.blocks != 0) {
    std::printf("%llu of %llu blocks are present; %s of the file are unused\n",
                static_cast<unsigned long long>(check.present_blocks), static_cast<unsigned long long>(check.blocks),
                Size(check.unused_bytes).c_str());
  }
  if (check.faults.empty()) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("disk '", arguments.paths[0], "': has faults"));
}

absl::Status Check(const Arguments& arguments) { return CheckOrRepair(arguments, /*repair=*/false); }
absl::Status Repair(const Arguments& arguments) { return CheckOrRepair(arguments, /*repair=*/true); }

absl::Status Resize(const Arguments& arguments) {
  HVIMG_ASSIGN(format, arguments.Format("format", ImageFormat::kDetect));
  HVIMG_ASSIGN(size, arguments.Bytes("size"));
  if (size == 0) return absl::InvalidArgumentError("resize needs --size");
  return hvsdk::ResizeImage(arguments.paths[0], format, size, arguments.engine);
}

absl::Status Compact(const Arguments& arguments) {
  HVIMG_ASSIGN(format, arguments.Format("format", ImageFormat::kDetect));
  Progress progress;
  HVIMG_ASSIGN(result, hvsdk::CompactImage(arguments.paths[0], format, std::ref(progress), arguments.engine));
  std::printf("its file had %s, and has %s\n", Size(result.bytes_before).c_str(), Size(result.bytes_after).c_str());
  return absl::OkStatus();
}

absl::Status Merge(const Arguments& arguments) {
  HVIMG_ASSIGN(format, arguments.Format("format", ImageFormat::kDetect));
  Progress progress;
  return hvsdk::MergeImage(arguments.paths[0], format, std::ref(progress), arguments.engine);
}

absl::Status Rebase(const Arguments& arguments) {
  HVIMG_ASSIGN(format, arguments.Format("format", ImageFormat::kDetect));
  if (!arguments.Has("parent")) return absl::InvalidArgumentError("rebase needs --parent");
  Progress progress;
  return hvsdk::RebaseImage(arguments.paths[0], format, arguments.flags.at("parent"), std::ref(progress),
                            arguments.engine);
}

struct Command {
  const char* name;
  size_t paths;
  std::vector<std::string> flags;
  absl::Status (*run)(const Arguments&);
};

const Command kCommands[] = {
    {"info", 1, {"format", "json"}, Info},
    {"create", 1, {"size", "format", "type", "block", "sector", "parent"}, Create},
    {"convert", 2, {"from", "format", "type", "block", "sector"}, Convert},
    {"compare", 2, {}, CompareImages},
    {"check", 1, {"format"}, Check},
    {"repair", 1, {"format"}, Repair},
    {"resize", 1, {"format", "size"}, Resize},
    {"compact", 1, {"format"}, Compact},
    {"merge", 1, {"format"}, Merge},
    {"rebase", 1, {"format", "parent"}, Rebase},
};

absl::Status Run(int argc, char** argv) {
  const std::string name = argc < 2 ? "" : argv[1];
  if (name == "--help" || name == "help") {
    std::fputs(kUsage, stdout);
    return absl::OkStatus();
  }
  for (const Command& command : kCommands) {
    if (name != command.name) continue;
    Arguments arguments;
    for (int i = 2; i < argc; ++i) {
      const std::string text = argv[i];
      if (text.substr(0, 2) != "--") {
        arguments.paths.push_back(text);
        continue;
      }
      const size_t equals = text.find('=');
      const std::string flag = text.substr(2, equals == std::string::npos ? equals : equals - 2);
      const bool is_known = std::find(command.flags.begin(), command.flags.end(), flag) != command.flags.end();
      const bool is_switch = flag == "json";
      if (!is_known)
        return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", name, " has no such flag; see --help"));
      if (is_switch != (equals == std::string::npos)) {
        return absl::InvalidArgumentError(absl::StrCat("--", flag, is_switch ? ": takes no value" : ": needs a value"));
      }
      if (arguments.Has(flag)) return absl::InvalidArgumentError(absl::StrCat("--", flag, ": is there twice"));
      arguments.flags[flag] = is_switch ? "" : text.substr(equals + 1);
    }
    if (arguments.paths.size() != command.paths) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " takes ", command.paths, command.paths == 1 ? " image" : " images", "; see --help"));
    }
    HVIMG_ASSIGN(engine, hvsdk::FileEngine::Create(hvsdk::FileEngineKind::kAuto));
    arguments.engine = engine;
    return command.run(arguments);
  }
  return absl::InvalidArgumentError(name.empty() ? "needs a command; see --help"
                                                 : absl::StrCat("\"", name, "\" is no command; see --help"));
}

}  // namespace
}  // namespace hvimg

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error as others are
  const absl::Status status = hvimg::Run(argc, argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "hvimg: %s\n", std::string(status.message()).c_str());
  return absl::IsOutOfRange(status) ? 1 : 2;
}
