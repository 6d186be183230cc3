// SPDX-License-Identifier: Apache-2.0
// What the examples in the public headers' comments take as given: names that a reader would have, by the names of the
// header's own library and of hvsdk. header_examples_test.py puts the examples in and compiles this.
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

using namespace hvsdk;

absl::Status Reject();
absl::Status Refuse();
void SignalPeer();
void WaitForInterrupt();
constexpr hvdef::Guid kMine{}, kFirst{};

namespace for_hvdef {
using namespace hvsdk::hvdef;
//> hvdef/guid.h
}  // namespace for_hvdef

namespace for_base {
struct MyTask : Task {
  void Run() override;
};
void BlockDeviceExample(BlockDevice& device, HostBuffer buffer) {
  //> resource/block_device.h
}
void Send(const Rectangle& rectangle);
void DirtyRegionExample() {
  //> resource/dirty_region.h
}
struct MyTimer {
  void Arm(uint64_t microseconds);
};
void Encode(const Frame& frame, const Rectangle& rectangle);
//> resource/display.h
void ExecutorExample(Executor& executor) {
  //> base/executor.h
}
void FakeClockExample(bool fired) {
  //> base/fake_clock.h
}
struct Table {};
void GuardedTaskExample(Executor& executor, Table other) {
  //> base/guarded_task.h
}
absl::Status HypervisorExample(Hypervisor& hypervisor, absl::Span<const uint8_t> payload) {
  //> base/hypervisor.h
  return absl::OkStatus();
}
void QueueExecutorExample(MyTask task) {
  //> base/queue_executor.h
}
struct PageState {
  std::atomic<uint32_t> state;
};
absl::Status ZeroedArrayExample(size_t count) {
  //> base/zeroed_array.h
  return absl::OkStatus();
}
}  // namespace for_base

namespace for_state {
using namespace hvsdk::state;
struct Wire {
  int32_t volts = 0;
  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "volts", volts);
  }
};
//> state/fields.h
absl::Status ReaderExample(absl::string_view bytes) {
  //> state/reader.h
  return absl::OkStatus();
}
void WriterExample() {
  //> state/writer.h
}
//> state/component.h
}  // namespace for_state

absl::Status GuestMemoryExample(uint8_t* host, uint64_t gpa) {
  //> memory/guest_memory.h
  return absl::OkStatus();
}

void PageSetExample(uint64_t memory_bytes, bool (*Copy)(uint64_t offset, uint64_t size_bytes)) {
  //> memory/page_set.h
}

absl::Status KvmExample(GuestMemory& memory) {
  //> backend_kvm/kvm_backend.h
  return absl::OkStatus();
}

absl::Status SoftwareExample() {
  //> backend_software/software_backend.h
  return absl::OkStatus();
}

absl::Status DeterministicExample(std::unique_ptr<backend::Vp> vp, backend::ExitHandler& handler) {
  //> backend/deterministic.h
  return absl::OkStatus();
}

absl::Status FileEngineExample(int fd, absl::Span<BlockRequest* const> batch) {
  //> os/file_engine.h
  return absl::OkStatus();
}

void MeteredDiskExample(std::shared_ptr<BlockDevice> disk) {
  //> image/metered_disk.h
}

absl::Status LostMemoryExample() {
  //> os/lost_memory.h
  return absl::OkStatus();
}

absl::Status RawDiskExample() {
  //> image/raw_disk.h
  return absl::OkStatus();
}

absl::Status SnapshotExample(std::shared_ptr<ImageDisk> disk, std::shared_ptr<FileEngine> engine) {
  //> image/snapshot.h
  return absl::OkStatus();
}

absl::Status ImageFileExample(std::shared_ptr<FileEngine> engine) {
  //> image/image_file.h
  return absl::OkStatus();
}

absl::Status DiskImageExample() {
  //> image/disk_image.h
  return absl::OkStatus();
}

namespace for_network {
using namespace hvsdk::ethernet;
using namespace hvsdk::network;
void WaitForOnRoom();
void Transmit(absl::Span<uint8_t> frame, const FrameOffload& offload);
void NetworkPortExample(NetworkPort& port, HostBuffer buffer) {
  //> resource/network_port.h
}
void HeadersExample(absl::Span<const uint8_t> frame, absl::Span<const uint8_t> payload) {
  //> ethernet/headers.h
}
void ChecksumExample(absl::Span<uint8_t> frame, FrameOffload offload) {
  //> ethernet/checksum.h
}
void SegmentationExample(absl::Span<const uint8_t> frame, const FrameOffload& offload, absl::Span<uint8_t> out) {
  //> ethernet/segmentation.h
}
void FlowHashExample(const std::array<uint8_t, kFlowKeyBytes>& key, absl::Span<const uint8_t> frame,
                     absl::Span<const size_t> table) {
  //> ethernet/flow_hash.h
}
void SwitchExample(const Clock& clock) {
  //> network/switch.h
}
void UserPortExample(os::EventLoop& loop) {
  //> network/user_port.h
}
void SocketPortExample(os::EventLoop& loop) {
  //> network/socket_port.h
}
void TapPortExample(os::EventLoop& loop) {
  //> network/tap_port.h
}
void CaptureExample(std::unique_ptr<NetworkPort> port, int fd) {
  //> network/capture.h
}
}  // namespace for_network

namespace for_chipset {
using namespace hvsdk::chipset;
using namespace hvsdk::interrupt;
absl::Status BusExample(Uart16550& uart) {
  //> chipset/bus.h
  return absl::OkStatus();
}
void DeviceExample(Bus& ports) {
  //> base/device.h
}
class IrqLineExample {
  static constexpr uint32_t kReceived = 1;
  void Run() {
    //> interrupt/irq_line.h
  }
  std::mutex mutex_;
  uint32_t pending_ = 0, enabled_ = 0;
  IrqLine line_{[](bool) {}};
};
void PciExample(Bus& ports) {
  //> chipset/pci_config.h
}
void PciVideoExample(PciConfigPorts& pci) {
  //> chipset/pci_video.h
}
struct Processor {
  void LookForInterrupts();
};
void PicExample(Bus& ports, Processor& processor) {
  //> interrupt/pic8259.h
}
void RtcExample(Bus& ports, const WallClock& wall_clock, const Clock& clock, TimerQueue& timers,
                backend::Partition& partition) {
  //> chipset/rtc.h
}
void UartExample(Bus& ports, Executor& executor, Task& copy_to_terminal, backend::Partition& partition) {
  //> chipset/uart16550.h
}
}  // namespace for_chipset

namespace for_hypercall {
using namespace hvsdk::hypercall;
struct In;
struct Out;
struct InElement;
struct OutElement;
struct Forms {
  //> hypercall/descriptor.h
};
void DescriptorExample(Dispatcher& dispatcher) {
  //> hypercall/descriptor.h
}
}  // namespace for_hypercall

namespace for_partition {
using namespace hvsdk::partition;
absl::Status PartitionExample(backend::Partition& engine, backend::Backend& backend, GuestMemory& memory,
                              ReferenceClock& clock, TimerQueue& timers, PartitionEvents& machine,
                              std::vector<backend::CpuidEntry> cpuid, uint32_t vp_count,
                              std::vector<std::unique_ptr<backend::Vp>> engine_vps) {
  //> partition/partition.h
  return absl::OkStatus();
}
absl::Status ReferenceClockExample(backend::Partition* backend_partition, const backend::BackendCaps& caps) {
  //> partition/reference_clock.h
  return absl::OkStatus();
}
absl::Status VpExample(partition::Vp& vp, backend::Vp& backend_vp, backend::ExitHandler& exit_handler, bool stopping) {
  //> partition/vp.h
  return absl::OkStatus();
}
}  // namespace for_partition

namespace for_vmbus {
using namespace hvsdk::vmbus;
absl::Status GpaBufferExample(const Packet& packet, const GuestMemory& memory) {
  std::vector<std::pair<uint8_t*, uint64_t>> pieces;
  //> vmbus/gpa_buffer.h
  return absl::OkStatus();
}
absl::Status GpadlExample(Channel& channel, uint32_t id_from_a_packet, uint64_t offset, uint32_t header) {
  //> vmbus/gpadl.h
  return absl::OkStatus();
}
uint64_t ReadFromSomewhere(absl::Span<HostBuffer> pieces);
absl::Status GuestBuffersExample(Channel& channel, const Packet& packet, const BlockRequest& request) {
  //> vmbus/guest_buffers.h
  return absl::OkStatus();
}
//> vmbus/packet_pump.h
void Handle(absl::Span<const uint8_t> payload);
void LoopbackExample(GuestMemory& memory, absl::Span<const uint8_t> bytes) {
  //> vmbus/loopback_hypervisor.h
}
void OfferExample(Server& server, ChannelHandler& provider, Executor& executor) {
  //> vmbus/offer.h
}
absl::Status ServerExample(GuestMemory& memory, Hypervisor& hypervisor, ChannelHandler& handler, Executor& executor) {
  //> vmbus/server.h
  return absl::OkStatus();
}
void Post(const OutgoingMessage&);
absl::Status ServerCoreExample(GuestMemory& memory, const Offer& offer, absl::Span<const uint8_t> from_the_guest) {
  //> vmbus/server_core.h
  return absl::OkStatus();
}
void OwnedRingExample() {
  //> vmbus/ring/owned_ring.h
}
void MemoryExample() {
  //> vmbus/ring/memory.h
}
void Add(const GpaBuffer&);
absl::Status PacketExample(const Packet& packet) {
  //> vmbus/ring/packet.h
  return absl::OkStatus();
}
constexpr uint32_t kMaxPacket = 4096;
void Handle(const Packet&);
void ReaderExample(RingReader<FlatMemory>& reader) {
  //> vmbus/ring/reader.h
}
void WriterExample(const MirroredMemory& memory, uint64_t id, uint32_t request) {
  //> vmbus/ring/writer.h
}
}  // namespace for_vmbus

namespace for_vmm {
using namespace hvsdk::boot;
using namespace hvsdk::machine;
using namespace hvsdk::os;
using namespace hvsdk::vmm;
absl::Status BackendsExample() {
  //> vmm/backends.h
  return absl::OkStatus();
}
absl::Status BoardExample(backend::Backend* backend, partition::PartitionEvents& events, EventLoop& loop,
                          Device& beeper, Runner::Events& runner_events) {
  //> machine/board.h
  return status;
}
absl::Status ByteSourceExample() {
  //> boot/byte_source.h
  return absl::OkStatus();
}
absl::Status ConfigExample() {
  //> vmm/config.h
  return absl::OkStatus();
}
absl::Status NetworksExample(os::EventLoop& loop, const MachineConfig& config, machine::MachineOptions& options) {
  //> vmm/networks.h
  return absl::OkStatus();
}
absl::Status EventLoopExample(int fd) {
  //> os/event_loop.h
  return status;
}
//> machine/exit_router.h
absl::Status KernelLoaderExample(const ByteSource* kernel, const MemoryLayout& layout, GuestMemory& memory,
                                 backend::Vp* bootstrap_vp) {
  //> boot/kernel_loader.h
  return absl::OkStatus();
}
//> machine/part.h
absl::Status MachineExample(backend::Backend* backend, const ByteSource* kernel, EventLoop& loop) {
  //> machine/machine.h
  return absl::OkStatus();
}
void IntegrationExample(Machine* machine, void (*done)(const absl::Status&)) {
  //> machine/integration.h
}
void InputExample(Machine* machine) {
  //> machine/input.h
}
absl::Status HostExample(backend::Backend* engine, const ByteSource* kernel, absl::StatusOr<PartitionId> b) {
  //> machine/host.h
  return status;
}
std::vector<uint64_t> MemoryBalanceExample() {
  constexpr uint64_t kGib = uint64_t{1} << 30;
  //> machine/memory_balance.h
  return shares;
}
absl::Status PartitionPortsExample() {
  //> machine/partition_ports.h
  return status;
}
void MachineChannelExample(Machine* machine, vmbus::ChannelHandler& provider, EventLoop& loop) {
  //> machine/machine.h
}
void ControllerExample(Machine& machine) {
  //> machine/controller.h
}
absl::Status DirtyLogExample(Board& board, const PageSet& everything, void (*Copy)(const PageSet&)) {
  //> machine/dirty_log.h
  return absl::OkStatus();
}
absl::Status SavedMachineExample(Machine* machine, Machine* twin) {
  //> machine/saved_machine.h
  return status;
}
absl::Status ControlServerExample(EventLoop& loop, ControlHandler& handler) {
  //> vmm/control_server.h
  return absl::OkStatus();
}
void MachineControlExample(Machine& machine, EventLoop& loop, std::string text) {
  //> vmm/machine_control.h
}
absl::Status ScreenshotExample(EventLoop& loop, const Display& display, int fd) {
  //> vmm/screenshot.h
  return absl::OkStatus();
}
absl::Status RecordingExample(EventLoop& loop, Display& display, int fd) {
  //> vmm/recording.h
  return absl::OkStatus();
}
void CarryToBrowser(int fd);
absl::Status ConsoleViewersExample(EventLoop& loop, SerialConsole& console) {
  //> vmm/console_viewers.h
  return absl::OkStatus();
}
absl::Status MachinePageExample(EventLoop& loop, ControlHandler& control, viewer::RfbServer& rfb_server,
                                Display& display) {
  //> vmm/machine_page.h
  return server.status();
}
void LogIn() {}
absl::Status ConsoleTextExample(Machine& machine) {
  //> vmm/console_text.h
  return absl::OkStatus();
}
void SendAll(std::string& bytes);
std::vector<uint8_t> ReceiveSome();
void Show(bool is_error, std::span<const uint8_t> bytes);
void ExecSessionExample() {
  //> vmm/exec_session.h
}
void MachineStatsExample(Machine& machine) {
  //> vmm/machine_stats.h
}
void MachineSaverExample(Machine& machine, std::string configuration) {
  //> vmm/machine_saver.h
}
absl::Status OutputFileExample(machine::Tracer& tracer) {
  //> vmm/output_file.h
}
void CoreDumpExample(Machine& machine) {
  //> vmm/core_dump.h
}
absl::Status NewStateExample(SavedMachine& machine, absl::Span<const uint8_t> memory) {
  //> vmm/new_state.h
}
absl::Status StateDirectoryExample(const std::string& path, MachineOptions& options) {
  //> vmm/state_directory.h
  return absl::OkStatus();
}
absl::Status OutputWriterExample(EventLoop& loop, Task& more, std::string text) {
  //> os/output_writer.h
  return absl::OkStatus();
}
absl::Status RunnerExample(EventLoop& loop, const Clock& clock, backend::Vp* backend_vp, partition::Vp* partition_vp,
                           ExitRouter& router, Runner::Events& events) {
  //> machine/runner.h
  return absl::OkStatus();
}
void SmbiosExample(const MemoryLayout& layout) {
  //> boot/smbios_tables.h
}
absl::Status TracerExample(int fd) {
  //> machine/tracer.h
  return absl::OkStatus();
}
}  // namespace for_vmm

namespace for_vsc {
using namespace hvsdk::vsc;
void ClientRingsExample(void* memory, uint64_t gpa) {
  //> vsc/client_rings.h
}
void LoopbackChildExample(GuestMemory& memory) {
  //> vsc/loopback_child.h
}
void StorageClientExample(VmbusClient& bus, Channel& channel, ClientRings& rings, uint64_t pfn) {
  //> vsc/storage_client.h
}
void NetworkClientExample(VmbusClient& bus, Channel& channel, ClientRings& rings, uint8_t* receive, PageList pages,
                          uint8_t* send, PageList more_pages, const uint8_t* data, uint32_t size) {
  //> vsc/network_client.h
}
uint32_t TakeFromFreeList(uint32_t pages, hvdef::dynamic_memory::PageRange* ranges);
void PutOnFreeList(hvdef::dynamic_memory::PageRange range);
void BalloonClientExample(VmbusClient& bus, Channel& channel, ClientRings& rings) {
  using hvdef::dynamic_memory::PageRange;
  //> vsc/balloon_client.h
}
void PowerOffSoon();
void OnScanCode(uint16_t code, uint32_t flags);
void KeyboardClientExample(VmbusClient& bus, Channel& channel, ClientRings& rings) {
  //> vsc/keyboard_client.h
}
void OnHidReport(const uint8_t* report, uint32_t size_bytes);
void MouseClientExample(VmbusClient& bus, Channel& channel, ClientRings& rings) {
  //> vsc/mouse_client.h
}
void IntegrationClientExample(VmbusClient& bus, Channel& channel, ClientRings& rings) {
  namespace integration = hvdef::integration;
  //> vsc/integration_client.h
}
void SocketClientExample(VmbusClient& bus, Channel& channel, const ClientRings& rings) {
  //> vsc/socket_client.h
}
void VideoClientExample(VmbusClient& bus, Channel& channel, const ClientRings& rings, uint64_t frame_gpa) {
  //> vsc/video_client.h
}
void VmbusClientExample(Hypercalls calls, ClientHandlers handlers, Channel& channel,
                        const hvdef::vmbus::OfferChannel& offer, const RingPages& ring) {
  //> vsc/vmbus_client.h
}
}  // namespace for_vsc

namespace for_vsp {
using namespace hvsdk::scsi;
using namespace hvsdk::vsp;
void ScsiUnitExample(ScsiUnit& unit, ScsiCommand& command, BlockStatus status) {
  //> scsi/scsi_unit.h
}
absl::Status DvdDriveExample(const std::array<uint8_t, 16>& id, std::shared_ptr<BlockDevice> iso) {
  //> scsi/dvd_drive.h
  return ejected;
}
absl::Status StorageExample(vmbus::Server& server, Executor& executor, const hvdef::Guid& id,
                            std::shared_ptr<BlockDevice> disk) {
  //> vsp/storage.h
  return status;
}
absl::Status NetworkExample(vmbus::Server& server, Executor& executor, const hvdef::Guid& id, const MacAddress& mac,
                            std::shared_ptr<NetworkPort> port) {
  //> vsp/network.h
  return absl::OkStatus();
}
void Complain();
void Tell(const absl::Status& status);
void IntegrationExample(Executor& loop, TimerQueue& timers, const Clock& clock) {
  //> vsp/integration.h
  (void)resources;
}
absl::Status BalloonExample(vmbus::Server& server, GuestMemory& memory, Executor& loop, TimerQueue& timers,
                            const Clock& clock) {
  //> vsp/balloon.h
  return absl::OkStatus();
}
void Show(const Frame& frame);
absl::Status VideoExample(vmbus::Server& server, GuestMemory& memory, Executor& loop) {
  //> vsp/video.h
  return absl::OkStatus();
}
absl::Status HeartbeatExample(vmbus::Server& server, Executor& loop, TimerQueue& timers, const Clock& clock) {
  //> vsp/heartbeat.h
  return absl::OkStatus();
}
void InputResourcesExample(Executor& loop, TimerQueue& timers, const Clock& clock) {
  //> vsp/input.h
  (void)resources;
}
absl::Status KeyboardExample(vmbus::Server& server, Executor& loop, TimerQueue& timers, const Clock& clock) {
  //> vsp/keyboard.h
  return absl::OkStatus();
}
absl::Status MouseExample(vmbus::Server& server, Executor& loop, TimerQueue& timers, const Clock& clock) {
  //> vsp/mouse.h
  return absl::OkStatus();
}
void InputSourceExample(KeySink* machine_keyboard, PointerSink* machine_mouse) {
  //> resource/input_source.h
}
void KeysExample(InputSource& source) {
  //> input/keys.h
}
absl::Status KeyboardLayoutExample() {
  //> input/keyboard_layout.h
  return events.status();
}
absl::Status SocketExample(vmbus::Server& server, os::EventLoop& loop, TimerQueue& timers, const Clock& clock,
                           SocketService& service) {
  //> vsp/socket.h
  return status;
}
class TimeOfDay : public SocketStream {
 public:
  void OnOpen(SocketWaker&) override {}
  SocketTransfer Read(absl::Span<uint8_t>) override { return {.state = SocketTransfer::State::kEnded}; }
  SocketTransfer Write(absl::Span<const uint8_t> from) override { return {.bytes = from.size()}; }
  void OnGuestEnded() override {}
  void OnClosed(const absl::Status&) override {}
};
absl::Status SocketServiceExample(SocketHub& hub) {
  //> resource/socket_service.h
  return status;
}
void CarryToBrowser(int fd);
absl::Status RfbServerExample(os::EventLoop& loop, Display& display, KeySink* keyboard, PointerSink* mouse) {
  //> viewer/rfb_server.h
  return absl::OkStatus();
}
absl::Status WebServerExample(os::EventLoop& loop, web::WebHandler& handler) {
  //> web/web_server.h
  return absl::OkStatus();
}
absl::Status UnixSocketsExample(os::EventLoop& loop, SocketHub& hub) {
  //> network/unix_sockets.h
  return absl::OkStatus();
}
void Tell(const absl::Status& status);
absl::Status KeyValueExchangeExample(vmbus::Server& server, Executor& loop, TimerQueue& timers, const Clock& clock) {
  //> vsp/key_value_exchange.h
  return absl::OkStatus();
}
absl::Status GuestFileCopyExample(vmbus::Server& server, Executor& loop, TimerQueue& timers, const Clock& clock,
                                  std::string text) {
  //> vsp/guest_file_copy.h
  return absl::OkStatus();
}
void CopyDisks();
absl::Status BackupExample(vmbus::Server& server, Executor& loop, TimerQueue& timers, const Clock& clock) {
  //> vsp/backup.h
  return absl::OkStatus();
}
absl::Status ShutdownExample(vmbus::Server& server, Executor& loop, TimerQueue& timers, const Clock& clock) {
  //> vsp/shutdown.h
  return absl::OkStatus();
}
absl::Status TimeSyncExample(vmbus::Server& server, Executor& loop, TimerQueue& timers, const Clock& clock,
                             const WallClock& wall_clock) {
  //> vsp/time_sync.h
  return absl::OkStatus();
}
}  // namespace for_vsp
