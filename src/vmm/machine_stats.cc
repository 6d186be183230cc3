// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine_stats.h"

#include <sys/resource.h>

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "base/guid_text.h"
#include "hvsdk/vmm/machine_control.h"

namespace hvsdk::vmm {
namespace {

using machine::ExitCounts;
using machine::ExitReason;
using Labels = std::vector<std::pair<absl::string_view, std::string>>;

class Collector {
 public:
  // What is added from now on; one after another, since those of a name stand together.
  void Begin(absl::string_view name, absl::string_view help) {
    name_ = std::string(name);
    CounterHelp& added = *stats_.add_help();
    added.set_name(name_);
    added.set_help(std::string(help));
  }
  void Add(uint64_t value, const Labels& labels = {}) {
    Counter& counter = *stats_.add_counters();
    counter.set_name(name_);
    counter.set_value(value);
    for (const auto& [name, text] : labels) {
      Label& label = *counter.add_labels();
      label.set_name(std::string(name));
      label.set_value(text);
    }
  }
  MachineStats Take() { return std::move(stats_); }

 private:
  std::string name_;
  MachineStats stats_;
};

void CollectExits(machine::Board& board, Collector& to) {
  constexpr std::pair<ExitReason, absl::string_view> kReasons[] = {
      {ExitReason::kPortRead, "port_read"}, {ExitReason::kPortWrite, "port_write"},
      {ExitReason::kMmioRead, "mmio_read"}, {ExitReason::kMmioWrite, "mmio_write"},
      {ExitReason::kMsrRead, "msr_read"},   {ExitReason::kMsrWrite, "msr_write"},
      {ExitReason::kHypercall, "hypercall"}};
  to.Begin("hvsdk_exits_total", "Exits of all processors, by what the guest wanted.");
  for (const auto& [reason, name] : kReasons) to.Add(board.exits().Sum(reason), {{"reason", std::string(name)}});
  to.Begin("hvsdk_hypercalls_total", "Hypercalls that were answered, by code.");
  for (size_t code = 0; code <= ExitCounts::kCodes; ++code) {
    const uint64_t count = board.exits().SumOfHypercalls(code);
    if (count == 0) continue;
    const hypercall::Descriptor* const call = board.partition().hypercalls().Find(static_cast<uint16_t>(code));
    to.Add(count, {{"code", code == ExitCounts::kCodes ? "others" : absl::StrFormat("0x%02x", code)},
                   {"name", call == nullptr || code == ExitCounts::kCodes ? "" : call->name}});
  }
}

void CollectSynic(machine::Board& board, Collector& to) {
  partition::Vp::Counts sum;
  for (uint32_t i = 0; i < board.vp_count(); ++i) {
    const partition::Vp::Counts counts = board.vp(VpIndex{i}).counts();
    sum.messages += counts.messages;
    sum.events += counts.events;
    sum.timer_expirations += counts.timer_expirations;
  }
  to.Begin("hvsdk_synic_messages_total", "Messages put into the guest's message slots.");
  to.Add(sum.messages);
  to.Begin("hvsdk_synic_events_total", "Event flags set in the guest's event pages that were clear.");
  to.Add(sum.events);
  to.Begin("hvsdk_timer_expirations_total", "Expirations of synthetic timers that were signalled.");
  to.Add(sum.timer_expirations);
}

void CollectChannels(machine::Board& board, Collector& to) {
  constexpr size_t kMostChannels = 256;
  std::vector<vmbus::Server::ChannelCounts> channels = board.vmbus().channel_counts();
  // Those of sockets come and go.
  std::erase_if(channels, [](const vmbus::Server::ChannelCounts& channel) {
    return (channel.offer.flags & hvdef::vmbus::kOfferTlnpiProvider) != 0;
  });
  if (channels.size() > kMostChannels) channels.resize(kMostChannels);
  const auto labels = [](const vmbus::Server::ChannelCounts& channel) -> Labels {
    return {{"instance", GuidText(channel.offer.instance_id)},
            {"subchannel", absl::StrCat(channel.offer.subchannel_index)}};
  };
  to.Begin("hvsdk_channel_signals_total", "Signals from the guest to a VMBus channel.");
  for (const auto& channel : channels) to.Add(channel.signals, labels(channel));
  to.Begin("hvsdk_channel_interrupts_total", "Interrupts that a VMBus channel asked for, for the guest.");
  for (const auto& channel : channels) to.Add(channel.interrupts, labels(channel));
  to.Begin("hvsdk_channel_shortcuts_total", "Signals to VMBus channels that came without an exit.");
  to.Add(board.channel_signals());
}

void CollectDisks(machine::Machine& machine, const DiskOwner* owner, Collector& to) {
  constexpr absl::string_view kOps[] = {"read", "write", "flush", "discard", "write_zeroes"};
  static_assert(std::size(kOps) == MeteredDisk::kOps);
  std::map<uint32_t, std::string> names;
  if (owner != nullptr) {
    for (const DiskStatus& disk : owner->disks()) names[disk.lun()] = disk.name();
  }
  const std::vector<machine::MachineDiskCounts> disks = machine.disk_counts();
  const auto add = [&](absl::string_view name, absl::string_view help, uint64_t MeteredDisk::Counts::*field) {
    to.Begin(name, help);
    for (const machine::MachineDiskCounts& disk : disks) {
      for (size_t op = 0; op < disk.ops.size(); ++op) {
        Labels labels = {{"device", absl::StrCat("storage/", disk.lun)}, {"op", std::string(kOps[op])}};
        if (const std::string& disk_name = names[disk.lun]; !disk_name.empty()) labels.push_back({"name", disk_name});
        to.Add(disk.ops[op].*field, labels);
      }
    }
  };
  add("hvsdk_disk_requests_total", "Requests that a disk has answered.", &MeteredDisk::Counts::requests);
  add("hvsdk_disk_bytes_total", "Bytes of requests that succeeded.", &MeteredDisk::Counts::bytes);
  add("hvsdk_disk_errors_total", "Requests that failed by the medium or the host.", &MeteredDisk::Counts::errors);
  add("hvsdk_disk_latency_nanoseconds_total", "Sum of the times from a request to its answer.",
      &MeteredDisk::Counts::latency_ns);
}

void CollectNetworks(machine::Machine& machine, const NetworkOwner* owner, Collector& to) {
  const std::vector<machine::MachineNetworkStatus> networks = machine.networks();
  if (networks.empty()) return;
  std::map<uint32_t, std::string> names;
  if (owner != nullptr) {
    for (const NetworkStatus& network : owner->networks()) names[network.number()] = network.name();
  }
  // `of` answers the guest's outgoing count, then the incoming one.
  const auto add = [&](absl::string_view name, absl::string_view help, auto of) {
    to.Begin(name, help);
    for (const machine::MachineNetworkStatus& network : networks) {
      const auto [transmitted, received] = of(network.counts);
      for (const auto& [direction, count] : {std::pair("transmit", transmitted), std::pair("receive", received)}) {
        Labels labels = {{"device", absl::StrCat("network/", network.number)}, {"direction", direction}};
        if (const std::string& called = names[network.number]; !called.empty()) labels.push_back({"name", called});
        to.Add(count, labels);
      }
    }
  };
  using Counts = vsp::NetworkCounts;
  add("hvsdk_network_frames_total", "Frames that an adapter has carried, from or to the guest.",
      [](const Counts& counts) { return std::pair(counts.transmitted.frames(), counts.received.frames()); });
  add("hvsdk_network_bytes_total", "Bytes of those frames.",
      [](const Counts& counts) { return std::pair(counts.transmitted.bytes(), counts.received.bytes()); });
  add("hvsdk_network_errors_total", "Frames that were none, or did not fit.",
      [](const Counts& counts) { return std::pair(counts.transmit_errors, counts.receive_errors); });
}

void CollectSockets(machine::Machine& machine, Collector& to) {
  const vsp::SocketProvider* const sockets = machine.sockets();
  if (sockets == nullptr) return;
  const vsp::SocketCounts counts = sockets->counts();
  to.Begin("hvsdk_socket_connections_total", "Connections between guest and host that were opened, by who connected.");
  to.Add(counts.from_guest, {{"from", "guest"}});
  to.Add(counts.from_host, {{"from", "host"}});
  to.Begin("hvsdk_socket_failures_total", "Connections that were refused, not accepted, or broken off.");
  to.Add(counts.refused, {{"reason", "refused"}});
  to.Add(counts.not_accepted, {{"reason", "not_accepted"}});
  to.Add(counts.broken, {{"reason", "broken"}});
  to.Begin("hvsdk_socket_bytes_total", "Bytes that sockets have carried, from or to the guest.");
  to.Add(counts.bytes_to_host, {{"direction", "transmit"}});
  to.Add(counts.bytes_to_guest, {{"direction", "receive"}});
}

void CollectTimes(machine::Machine& machine, Collector& to) {
  to.Begin("hvsdk_resets_total", "Resets of the machine in place.");
  to.Add(machine.resets());
  to.Begin("hvsdk_reference_time_nanoseconds_total", "The guest's reference time.");
  to.Add(machine.board().clock().Now100ns() * 100);
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto ns = [](const timeval& time) {
    return uint64_t(time.tv_sec) * 1'000'000'000 + uint64_t(time.tv_usec) * 1000;
  };
  to.Begin("hvsdk_process_nanoseconds_total", "Processor time of the machine's process, guest included.");
  to.Add(ns(used.ru_utime), {{"mode", "user"}});
  to.Add(ns(used.ru_stime), {{"mode", "system"}});
}

std::string EscapeHelp(absl::string_view text) { return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\n", "\\n"}}); }
std::string EscapeLabel(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\n", "\\n"}, {"\"", "\\\""}});
}

}  // namespace

MachineStats CollectStats(machine::Machine& machine, const DiskOwner* disks, const NetworkOwner* networks) {
  Collector to;
  CollectExits(machine.board(), to);
  CollectSynic(machine.board(), to);
  CollectChannels(machine.board(), to);
  CollectDisks(machine, disks, to);
  CollectNetworks(machine, networks, to);
  CollectSockets(machine, to);
  CollectTimes(machine, to);
  return to.Take();
}

std::string PrometheusText(const MachineStats& stats) {
  std::map<std::string, std::string> help;
  for (const CounterHelp& each : stats.help()) help[each.name()] = each.help();
  std::string text, last;
  for (const Counter& counter : stats.counters()) {
    if (counter.name() != last) {
      last = counter.name();
      absl::StrAppend(&text, "# HELP ", last, " ", EscapeHelp(help[last]), "\n# TYPE ", last, " counter\n");
    }
    absl::StrAppend(&text, counter.name());
    if (counter.labels_size() != 0) {
      absl::StrAppend(&text, "{",
                      absl::StrJoin(counter.labels(), ",",
                                    [](std::string* to, const Label& label) {
                                      absl::StrAppend(to, label.name(), "=\"", EscapeLabel(label.value()), "\"");
                                    }),
                      "}");
    }
    absl::StrAppend(&text, " ", counter.value(), "\n");
  }
  return text;
}

std::string StatsTable(const MachineStats& stats) {
  std::string text;
  for (const Counter& counter : stats.counters()) {
    if (counter.value() == 0) continue;
    absl::string_view name = counter.name();
    if (name.substr(0, 6) == "hvsdk_") name.remove_prefix(6);
    const std::string labels = absl::StrJoin(
        counter.labels(), " ", [](std::string* to, const Label& label) { absl::StrAppend(to, label.value()); });
    absl::StrAppendFormat(&text, "%20d  %s%s%s\n", counter.value(), name.substr(0, name.rfind("_total")),
                          labels.empty() ? "" : "  ", labels);
  }
  return text;
}

}  // namespace hvsdk::vmm
