// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine_stats.h"

#include "gtest/gtest.h"

namespace hvsdk::vmm {
namespace {

Counter& Add(MachineStats& stats, const std::string& name, uint64_t value) {
  Counter& counter = *stats.add_counters();
  counter.set_name(name);
  counter.set_value(value);
  return counter;
}
void AddLabel(Counter& counter, const std::string& name, const std::string& value) {
  Label& label = *counter.add_labels();
  label.set_name(name);
  label.set_value(value);
}

TEST(MachineStatsTest, PrometheusTextIsEscaped) {
  MachineStats stats;
  CounterHelp& help = *stats.add_help();
  help.set_name("hvsdk_a_total");
  help.set_help("A \\ and a\nline.");
  Counter& counter = Add(stats, "hvsdk_a_total", ~uint64_t{0});
  AddLabel(counter, "device", "storage/0");
  AddLabel(counter, "name", "a\"b\\c\nd");
  AddLabel(Add(stats, "hvsdk_a_total", 2), "device", "storage/1");
  Add(stats, "hvsdk_b_total", 0);
  EXPECT_EQ(PrometheusText(stats),
            "# HELP hvsdk_a_total A \\\\ and a\\nline.\n"
            "# TYPE hvsdk_a_total counter\n"
            "hvsdk_a_total{device=\"storage/0\",name=\"a\\\"b\\\\c\\nd\"} 18446744073709551615\n"
            "hvsdk_a_total{device=\"storage/1\"} 2\n"
            "# HELP hvsdk_b_total \n"
            "# TYPE hvsdk_b_total counter\n"
            "hvsdk_b_total 0\n");
}

TEST(MachineStatsTest, TheTableLeavesOutWhatIsZero) {
  MachineStats stats;
  AddLabel(Add(stats, "hvsdk_exits_total", 12), "reason", "port_read");
  AddLabel(Add(stats, "hvsdk_exits_total", 0), "reason", "port_write");
  Add(stats, "hvsdk_resets_total", 1);
  EXPECT_EQ(StatsTable(stats), "                  12  exits  port_read\n                   1  resets\n");
}

}  // namespace
}  // namespace hvsdk::vmm
