// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/uart16550.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace hvsdk::chipset {
namespace {

// Register offsets (datasheet, table II). Offsets 0 and 1 are the divisor while LCR's DLAB is set.
enum Register : uint64_t {
  kData = 0,
  kInterruptEnable = 1,
  kInterruptIdFifoControl = 2,
  kLineControl = 3,
  kModemControl = 4,
  kLineStatus = 5,
  kModemStatus = 6,
  kScratch = 7,
};

// 8.7 Interrupt Enable Register.
constexpr uint8_t kEnableReceived = 0x01;
constexpr uint8_t kEnableTransmitter = 0x02;
constexpr uint8_t kEnableLineStatus = 0x04;
constexpr uint8_t kEnableModemStatus = 0x08;

// 8.6 Interrupt Identification Register, in descending priority.
constexpr uint8_t kIdLineStatus = 0x06;
constexpr uint8_t kIdReceived = 0x04;
constexpr uint8_t kIdTimeout = 0x0C;
constexpr uint8_t kIdTransmitter = 0x02;
constexpr uint8_t kIdModemStatus = 0x00;
constexpr uint8_t kIdNone = 0x01;
constexpr uint8_t kIdFifosEnabled = 0xC0;

// 8.5 FIFO Control Register.
constexpr uint8_t kFifoEnable = 0x01;
constexpr uint8_t kFifoResetReceiver = 0x02;
constexpr uint8_t kFifoResetTransmitter = 0x04;

constexpr uint8_t kDlab = 0x80;  // 8.1 Line Control Register

// 8.4 Line Status Register.
constexpr uint8_t kDataReady = 0x01;
constexpr uint8_t kOverrun = 0x02;
constexpr uint8_t kTransmitterHoldingEmpty = 0x20;
constexpr uint8_t kTransmitterEmpty = 0x40;

// 8.8 Modem Control Register.
constexpr uint8_t kDtr = 0x01;
constexpr uint8_t kRts = 0x02;
constexpr uint8_t kOut1 = 0x04;
constexpr uint8_t kOut2 = 0x08;  // on a PC it gates the interrupt
constexpr uint8_t kLoop = 0x10;
constexpr uint8_t kModemControlBits = 0x1F;

// 8.9 Modem Status Register: four inputs, and what changed in the low half.
constexpr uint8_t kCts = 0x10;
constexpr uint8_t kDsr = 0x20;
constexpr uint8_t kRi = 0x40;
constexpr uint8_t kDcd = 0x80;
constexpr uint8_t kRiDelta = 0x04;  // set by RI's trailing edge alone

struct UartState {
  static constexpr uint32_t kSchema = 1;
  uint8_t interrupt_enable = 0, line_control = 0, modem_control = 0, modem_delta = 0, line_errors = 0, scratch = 0;
  uint8_t divisor_low = 12, divisor_high = 0;  // 9600 baud
  bool fifo_enabled = false;
  uint8_t receive_trigger = 1;
  bool transmitter_empty_interrupt = false, input_refused = false, serving = false, irq = false;
  uint64_t moved = 0;
  std::vector<uint8_t> received;  // and not read
  std::vector<uint8_t> output;    // and not taken

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "interrupt_enable", interrupt_enable);
    visit(2, "line_control", line_control);
    visit(3, "modem_control", modem_control);
    visit(4, "modem_delta", modem_delta);
    visit(5, "line_errors", line_errors);
    visit(6, "scratch", scratch);
    visit(7, "divisor_low", divisor_low);
    visit(8, "divisor_high", divisor_high);
    visit(9, "fifo_enabled", fifo_enabled);
    visit(10, "receive_trigger", receive_trigger);
    visit(11, "transmitter_empty_interrupt", transmitter_empty_interrupt);
    visit(12, "input_refused", input_refused);
    visit(13, "serving", serving);
    visit(14, "irq", irq);
    visit(15, "moved", moved);
    visit(16, "received", received);
    visit(17, "output", output);
  }
};

}  // namespace

absl::Status Uart16550::Save(state::StateWriter& writer) const {
  std::lock_guard lock(mutex_);
  UartState state{.interrupt_enable = interrupt_enable_,
                  .line_control = line_control_,
                  .modem_control = modem_control_,
                  .modem_delta = modem_delta_,
                  .line_errors = line_errors_,
                  .scratch = scratch_,
                  .divisor_low = divisor_low_,
                  .divisor_high = divisor_high_,
                  .fifo_enabled = fifo_enabled_,
                  .receive_trigger = receive_trigger_,
                  .transmitter_empty_interrupt = transmitter_empty_interrupt_,
                  .input_refused = input_refused_,
                  .serving = serving_,
                  .irq = irq_.level(),
                  .moved = moved_};
  for (size_t i = 0; i < receive_count_; ++i) state.received.push_back(receive_[(receive_at_ + i) % kFifoSize]);
  for (size_t at = output_tail_; at != output_head_; ++at) state.output.push_back(output_[at % kOutputSize]);
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status Uart16550::Restore(state::StateReader& reader) {
  UartState state;
  if (absl::Status status = reader.Read(state); !status.ok()) return status;
  if (state.received.size() > (state.fifo_enabled ? kFifoSize : 1)) return reader.Invalid("received", "too much");
  if (state.output.size() > kOutputSize) return reader.Invalid("output", "too much");
  if (state.receive_trigger == 0 || state.receive_trigger > kFifoSize) {
    return reader.Invalid("receive_trigger", "not 1 to 16");
  }
  if ((state.modem_control & ~kModemControlBits) != 0)
    return reader.Invalid("modem_control", "bits that there are not");
  if (state.moved > kMostAtOnce) return reader.Invalid("moved", "too much");
  std::lock_guard lock(mutex_);
  interrupt_enable_ = state.interrupt_enable;
  line_control_ = state.line_control;
  modem_control_ = state.modem_control;
  modem_delta_ = state.modem_delta;
  line_errors_ = state.line_errors;
  scratch_ = state.scratch;
  divisor_low_ = state.divisor_low;
  divisor_high_ = state.divisor_high;
  fifo_enabled_ = state.fifo_enabled;
  receive_trigger_ = state.receive_trigger;
  transmitter_empty_interrupt_ = state.transmitter_empty_interrupt;
  input_refused_ = state.input_refused;
  serving_ = state.serving;
  moved_ = state.moved;
  receive_at_ = 0;
  receive_count_ = state.received.size();
  std::copy(state.received.begin(), state.received.end(), receive_.begin());
  output_tail_ = 0;
  output_head_ = state.output.size();
  output_ = std::move(state.output);
  if (!output_.empty()) output_.resize(kOutputSize);
  irq_.Adopt(state.irq);
  return absl::OkStatus();
}

void Uart16550::Reset() {
  std::lock_guard lock(mutex_);
  const UartState state;
  interrupt_enable_ = line_control_ = modem_control_ = modem_delta_ = line_errors_ = scratch_ = 0;
  divisor_low_ = state.divisor_low;
  divisor_high_ = state.divisor_high;
  fifo_enabled_ = transmitter_empty_interrupt_ = input_refused_ = serving_ = false;
  receive_trigger_ = state.receive_trigger;
  receive_count_ = receive_at_ = moved_ = 0;
  irq_.Adopt(false);
}

Uart16550::Uart16550(Hooks hooks) : hooks_(std::move(hooks)), irq_(std::move(hooks_.irq)) {}

void Uart16550::Act(const Actions& actions) {
  if (actions.drive_irq) irq_.Drive();
  if (actions.output_ready && hooks_.output_ready) hooks_.output_ready();
  if (actions.input_room && hooks_.input_room) hooks_.input_room();
}

uint8_t Uart16550::InterruptId() const {
  if ((interrupt_enable_ & kEnableLineStatus) && line_errors_ != 0) return kIdLineStatus;
  if (interrupt_enable_ & kEnableReceived) {
    if (receive_count_ >= receive_trigger_) return kIdReceived;
    // A real FIFO waits four character times for more before it reports a few bytes; on an infinitely fast line none.
    if (receive_count_ != 0) return kIdTimeout;
  }
  if ((interrupt_enable_ & kEnableTransmitter) && transmitter_empty_interrupt_) return kIdTransmitter;
  if ((interrupt_enable_ & kEnableModemStatus) && modem_delta_ != 0) return kIdModemStatus;
  return kIdNone;
}

// A driver serves the port until this register says that nothing is left. On a line without a speed there always is, so it would
// move all that it has, Linux 4 KiB and more, with interrupts off. After a while it is told that it is done and, by an edge,
// that there is more.
uint8_t Uart16550::ReadInterruptId(Actions& actions) {
  const uint8_t id = InterruptId();
  const bool data = id == kIdReceived || id == kIdTimeout || id == kIdTransmitter;
  if (data && serving_ && moved_ >= kMostAtOnce) {
    serving_ = false;
    actions.drive_irq |= irq_.Want(false);
    return kIdNone;
  }
  if (data && !serving_) moved_ = 0;
  serving_ = id != kIdNone && (data || serving_);
  if (id == kIdTransmitter) transmitter_empty_interrupt_ = false;
  return id;
}

void Uart16550::UpdateIrq(Actions& actions) {
  const bool gated = (modem_control_ & kOut2) != 0 && (modem_control_ & kLoop) == 0;
  actions.drive_irq |= irq_.Want(gated && InterruptId() != kIdNone);
}

uint8_t Uart16550::ModemStatus() const {
  if ((modem_control_ & kLoop) == 0) return kCts | kDsr | kDcd;  // somebody is always listening
  uint8_t status = 0;
  if (modem_control_ & kRts) status |= kCts;
  if (modem_control_ & kDtr) status |= kDsr;
  if (modem_control_ & kOut1) status |= kRi;
  if (modem_control_ & kOut2) status |= kDcd;
  return status;
}

void Uart16550::SetModemControl(uint8_t value) {
  const uint8_t before = ModemStatus();
  modem_control_ = value & kModemControlBits;
  const uint8_t after = ModemStatus();
  const uint8_t changed = static_cast<uint8_t>(before ^ after) >> 4;
  modem_delta_ |= changed & ~kRiDelta;
  if ((before & kRi) && !(after & kRi)) modem_delta_ |= kRiDelta;
}

uint8_t Uart16550::LineStatus() const {
  uint8_t status = line_errors_;
  if (receive_count_ != 0) status |= kDataReady;
  if (output_count() < kOutputSize) status |= kTransmitterHoldingEmpty | kTransmitterEmpty;
  return status;
}

uint8_t Uart16550::ReadReceiver(Actions& actions) {
  if (receive_count_ == 0) return 0;
  const uint8_t value = receive_[receive_at_];
  moved_ = std::min(moved_ + 1, kMostAtOnce);
  receive_at_ = (receive_at_ + 1) % kFifoSize;
  --receive_count_;
  if (receive_count_ == 0 && input_refused_) {
    input_refused_ = false;
    actions.input_room = true;
  }
  return value;
}

void Uart16550::Receive(uint8_t value) {
  if (receive_count_ == receive_capacity()) {
    line_errors_ |= kOverrun;
    // Without a FIFO the newcomer overwrites; with one it is lost in the shift register (8.4, bit 1).
    if (!fifo_enabled_) receive_[receive_at_] = value;
    return;
  }
  receive_[(receive_at_ + receive_count_) % kFifoSize] = value;
  ++receive_count_;
}

void Uart16550::Transmit(uint8_t value, Actions& actions) {
  moved_ = std::min(moved_ + 1, kMostAtOnce);  // one that polls moves any number, and asks for no interrupt's id
  if (modem_control_ & kLoop) {
    Receive(value);
  } else if (output_count() < kOutputSize) {
    if (output_.empty()) output_.resize(kOutputSize);
    actions.output_ready = output_count() == 0;
    output_[output_head_++ % kOutputSize] = value;
  }
  transmitter_empty_interrupt_ = output_count() < kOutputSize;
}

void Uart16550::WriteFifoControl(uint8_t value, Actions& actions) {
  const bool enable = (value & kFifoEnable) != 0;
  // Changing the mode empties both FIFOs; the other bits count only together with the enable bit (8.5).
  if (enable != fifo_enabled_ || (enable && (value & kFifoResetReceiver))) {
    receive_count_ = 0;
    actions.input_room = std::exchange(input_refused_, false);
  }
  if (enable && (value & kFifoResetTransmitter)) transmitter_empty_interrupt_ = true;
  fifo_enabled_ = enable;
  static constexpr uint8_t kTriggers[] = {1, 4, 8, 14};
  receive_trigger_ = enable ? kTriggers[value >> 6] : 1;
  serving_ = false;
}

uint8_t Uart16550::ReadByte(uint64_t offset) {
  Actions actions;
  uint8_t value = 0;
  {
    std::lock_guard lock(mutex_);
    const bool dlab = (line_control_ & kDlab) != 0;
    switch (offset) {
      case kData:
        value = dlab ? divisor_low_ : ReadReceiver(actions);
        break;
      case kInterruptEnable:
        value = dlab ? divisor_high_ : interrupt_enable_;
        break;
      case kInterruptIdFifoControl:
        value = ReadInterruptId(actions);
        if (fifo_enabled_) value |= kIdFifosEnabled;
        break;
      case kLineControl:
        value = line_control_;
        break;
      case kModemControl:
        value = modem_control_;
        break;
      case kLineStatus:
        value = LineStatus();
        line_errors_ = 0;
        break;
      case kModemStatus:
        value = ModemStatus() | std::exchange(modem_delta_, 0);
        break;
      case kScratch:
        value = scratch_;
        break;
    }
    UpdateIrq(actions);
  }
  Act(actions);
  return value;
}

void Uart16550::WriteByte(uint64_t offset, uint8_t value) {
  Actions actions;
  {
    std::lock_guard lock(mutex_);
    const bool dlab = (line_control_ & kDlab) != 0;
    switch (offset) {
      case kData:
        if (dlab) {
          divisor_low_ = value;
        } else {
          Transmit(value, actions);
        }
        break;
      case kInterruptEnable:
        if (dlab) {
          divisor_high_ = value;
          break;
        }
        // Enabling the interrupt while the transmitter is empty requests it at once.
        if ((value & ~interrupt_enable_ & kEnableTransmitter) && output_count() < kOutputSize) {
          transmitter_empty_interrupt_ = true;
        }
        interrupt_enable_ = value & 0x0F;
        serving_ = false;
        break;
      case kInterruptIdFifoControl:
        WriteFifoControl(value, actions);
        break;
      case kLineControl:
        line_control_ = value;
        break;
      case kModemControl:
        SetModemControl(value);
        // In loopback the receiver is cut off from the line; now it may listen again.
        if ((modem_control_ & kLoop) == 0 && receive_count_ < receive_capacity()) {
          actions.input_room = std::exchange(input_refused_, false);
        }
        break;
      case kScratch:
        scratch_ = value;
        break;
      default:  // the status registers are read-only
        break;
    }
    UpdateIrq(actions);
  }
  Act(actions);
}

size_t Uart16550::TakeOutput(absl::Span<uint8_t> data) {
  Actions actions;
  size_t taken = 0;
  {
    std::lock_guard lock(mutex_);
    const bool was_full = output_count() == kOutputSize;
    while (taken < data.size() && output_count() != 0) {
      const size_t at = output_tail_ % kOutputSize;
      const size_t piece = std::min({data.size() - taken, output_count(), kOutputSize - at});
      std::memcpy(data.data() + taken, output_.data() + at, piece);
      output_tail_ += piece;
      taken += piece;
    }
    if (was_full && taken != 0) transmitter_empty_interrupt_ = true;
    UpdateIrq(actions);
  }
  Act(actions);
  return taken;
}

size_t Uart16550::PutInput(absl::Span<const uint8_t> data) {
  Actions actions;
  size_t put = 0;
  {
    std::lock_guard lock(mutex_);
    if ((modem_control_ & kLoop) == 0) {
      while (put < data.size() && receive_count_ < receive_capacity()) Receive(data[put++]);
    }
    if (put < data.size()) input_refused_ = true;
    UpdateIrq(actions);
  }
  Act(actions);
  return put;
}

bool Uart16550::has_output() const {
  std::lock_guard lock(mutex_);
  return output_count() != 0;
}

}  // namespace hvsdk::chipset
