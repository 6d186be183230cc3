// SPDX-License-Identifier: Apache-2.0
// The two ends of a command that a host has run in its guest (exec_protocol.h), without the sockets and processes: what came goes in, and what is
// to be sent comes out. Neither trusts the other.
//
// Limits: `outgoing` grows by what it is given; whoever gives, asks for room before, and an agent whether it may receive. Thread-compatible. Header-only, and needs no library.
//
//   exec::Host host({"ls", "-l", "/"});
//   SendAll(host.outgoing());
//   while (!host.status() && host.Receive(ReceiveSome(), [](bool is_error, std::span<const uint8_t> bytes) {
//     Show(is_error, bytes);
//   })) {
//   }

#ifndef HVSDK_VMM_EXEC_SESSION_H_
#define HVSDK_VMM_EXEC_SESSION_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hvsdk/vmm/exec_protocol.h"

namespace hvsdk::vmm::exec {

// Who has a command run.
class Host {
 public:
  // Whether these can be sent: a command, of which none has a zero byte, and no more than kMaxStart in all.
  static bool CanStart(std::span<const std::string> arguments) {
    size_t size = sizeof(kVersion);
    for (const std::string& argument : arguments) {
      if (argument.find('\0') != std::string::npos) return false;
      size += argument.size() + 1;
    }
    return !arguments.empty() && !arguments[0].empty() && size <= kMaxStart;
  }

  // Of a command that can start.
  explicit Host(std::span<const std::string> arguments) {
    std::string start(reinterpret_cast<const char*>(&kVersion), sizeof(kVersion));
    for (const std::string& argument : arguments) start.append(argument.c_str(), argument.size() + 1);
    AppendFrame(outgoing_, Type::kStart, start.data(), start.size());
  }
  explicit Host(const std::vector<std::string>& arguments) : Host(std::span(arguments)) {}

  // What is to be sent; whoever has sent some takes it off the front.
  std::string& outgoing() { return outgoing_; }

  // How much input may be given now; 0 also when that has ended, or the command.
  uint32_t input_room() const { return is_input_ended_ || status_ ? 0 : kWindow - on_their_way_; }
  void Input(std::span<const uint8_t> bytes) {
    bytes = bytes.first(std::min<size_t>(bytes.size(), input_room()));
    on_their_way_ += static_cast<uint32_t>(bytes.size());
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min<size_t>(bytes.size(), kMaxData));
      AppendFrame(outgoing_, Type::kInput, piece.data(), piece.size());
      bytes = bytes.subspan(piece.size());
    }
  }
  void EndInput() {
    if (!is_input_ended_) AppendFrame(outgoing_, Type::kInputEnd, nullptr, 0);
    is_input_ended_ = true;
  }
  void Signal(uint32_t number) { AppendFrame(outgoing_, Type::kSignal, number); }

  // What the agent sent. `on_output` is called with bool is_error and std::span<const uint8_t>. False: it does not keep to the protocol, and is
  // not listened to any more.
  template <typename OnOutput>
  [[nodiscard]] bool Receive(std::span<const uint8_t> bytes, OnOutput&& on_output) {
    return reader_.Read(bytes, [&](Type type, std::span<const uint8_t> payload) {
      if (status_) return false;
      uint32_t number = 0;
      if (payload.size() == sizeof(number)) std::memcpy(&number, payload.data(), sizeof(number));
      switch (type) {
        case Type::kOutput:
        case Type::kErrorOutput:
          on_output(type == Type::kErrorOutput, payload);
          return true;
        case Type::kInputTaken:
          if (number > on_their_way_) return false;
          on_their_way_ -= number;
          return true;
        case Type::kExited:
          if (number > 255) return false;
          status_ = static_cast<uint8_t>(number);
          return true;
        default:
          return false;
      }
    });
  }
  // The command's, once it has ended.
  std::optional<uint8_t> status() const { return status_; }

 private:
  FrameReader reader_;
  std::string outgoing_;
  uint32_t on_their_way_ = 0;  // bytes of input that the command has not read
  bool is_input_ended_ = false;
  std::optional<uint8_t> status_;
};

// Who runs it.
class Agent {
 public:
  // Whether the host is to be listened to: one that does not take what it is told would have that grow.
  bool may_receive() const { return outgoing_.size() < 2 * kMaxOutgoing; }
  // What the host sent. `handler` has OnStart(std::vector<std::string>), once and first, and OnSignal(uint32_t). False: the host does not keep
  // to the protocol.
  template <typename Handler>
  [[nodiscard]] bool Receive(std::span<const uint8_t> bytes, Handler&& handler) {
    return reader_.Read(bytes, [&](Type type, std::span<const uint8_t> payload) {
      if (is_started_ != (type != Type::kStart)) return false;
      switch (type) {
        case Type::kStart: {
          std::vector<std::string> arguments;
          if (!ParseStart(payload, arguments)) return false;
          is_started_ = true;
          handler.OnStart(std::move(arguments));
          return true;
        }
        case Type::kInput:
          if (is_input_ended_ || payload.size() > kWindow - on_their_way_) return false;
          on_their_way_ += static_cast<uint32_t>(payload.size());
          input_.append(reinterpret_cast<const char*>(payload.data()), payload.size());
          if (is_input_dropped_) DropInput();
          return true;
        case Type::kInputEnd:
          if (is_input_ended_) return false;
          is_input_ended_ = true;
          return true;
        case Type::kSignal: {
          uint32_t number;
          std::memcpy(&number, payload.data(), sizeof(number));
          if (number == 0 || number > kMaxSignal) return false;
          handler.OnSignal(number);
          return true;
        }
        default:
          return false;
      }
    });
  }

  // Input that the command has not read yet; and whether there is no more behind it.
  std::string_view input() const { return input_; }
  bool is_input_ended() const { return is_input_ended_; }
  void TakeInput(size_t bytes) {
    input_.erase(0, bytes);
    taken_ += static_cast<uint32_t>(bytes);
    // Not a frame for each few bytes, and none held back from a host that may have nothing else on its way.
    if (taken_ != 0 && !is_exited_ && (input_.empty() || taken_ >= kWindow / 4)) {
      AppendFrame(outgoing_, Type::kInputTaken, taken_);
      on_their_way_ -= taken_;
      taken_ = 0;
    }
  }
  // The command reads no more: what comes is taken all the same.
  void DropInput() {
    is_input_dropped_ = true;
    TakeInput(input_.size());
  }

  // How much output may be given now, so that no more than so much waits for the host.
  size_t output_room() const { return outgoing_.size() < kMaxOutgoing ? kMaxData : 0; }
  void Output(bool is_error, std::span<const uint8_t> bytes) {
    if (bytes.empty()) return;
    AppendFrame(outgoing_, is_error ? Type::kErrorOutput : Type::kOutput, bytes.data(), bytes.size());
  }
  // Nothing follows.
  void Exited(uint8_t status) {
    AppendFrame(outgoing_, Type::kExited, status);
    is_exited_ = true;
  }

  // What is to be sent; whoever has sent some takes it off the front.
  std::string& outgoing() { return outgoing_; }

 private:
  static constexpr size_t kMaxOutgoing = 65536;

  static bool ParseStart(std::span<const uint8_t> payload, std::vector<std::string>& arguments) {
    uint32_t version;
    std::memcpy(&version, payload.data(), sizeof(version));
    std::string_view rest(reinterpret_cast<const char*>(payload.data()) + sizeof(version),
                          payload.size() - sizeof(version));
    if (version != kVersion || rest.back() != '\0' || rest.front() == '\0') return false;
    for (size_t end; (end = rest.find('\0')) != std::string_view::npos; rest.remove_prefix(end + 1)) {
      arguments.emplace_back(rest.substr(0, end));
    }
    return true;
  }

  FrameReader reader_;
  std::string outgoing_;
  std::string input_;
  uint32_t on_their_way_ = 0;  // bytes of input of which the host has not been told that they were taken
  uint32_t taken_ = 0;         // of these, those that were
  bool is_started_ = false, is_input_ended_ = false, is_input_dropped_ = false, is_exited_ = false;
};

}  // namespace hvsdk::vmm::exec

#endif  // HVSDK_VMM_EXEC_SESSION_H_
