// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/output_file.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace hvsdk::vmm {
namespace {

class OutputFileTest : public testing::Test {
 protected:
  OutputFileTest() {
    char pattern[] = "/tmp/hvsdk_output_XXXXXX";
    root_ = mkdtemp(pattern);
    path_ = root_ + "/file";
  }
  ~OutputFileTest() override { std::filesystem::remove_all(root_); }

  std::string root_, path_;
};

TEST_F(OutputFileTest, IsAsItWasUntilItIsCommitted) {
  { std::ofstream(path_) << "precious"; }
  {
    OutputFile file;
    ASSERT_TRUE(file.Open(path_).ok());
  }
  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
  OutputFile file;
  ASSERT_TRUE(file.Open(path_).ok());
  file.Commit();
  EXPECT_EQ(std::filesystem::file_size(path_), 0u);
  OutputFile fresh;
  ASSERT_TRUE(fresh.Open(root_ + "/new").ok());
  EXPECT_TRUE(std::filesystem::exists(root_ + "/new"));
}

TEST_F(OutputFileTest, WhatNeverRanLeavesNothing) {
  {
    OutputFile file;
    ASSERT_TRUE(file.Open(path_).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(OutputFileTest, OneMachineWritesIt) {
  int duplicate;
  {
    OutputFile first;
    ASSERT_TRUE(first.Open(path_).ok());
    first.Commit();
    ASSERT_EQ(write(first.fd(), "precious", 8), 8);
    duplicate = dup(first.fd());
  }
  // Whoever has the descriptor writes on.
  {
    OutputFile second;
    const absl::Status status = second.Open(path_);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  }
  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
  close(duplicate);
  OutputFile third;
  EXPECT_TRUE(third.Open(path_).ok());
}

TEST_F(OutputFileTest, APipeWithoutAReader) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  OutputFile file;
  EXPECT_EQ(file.Open(path_).message(), "nobody reads from this pipe");
}

}  // namespace
}  // namespace hvsdk::vmm
