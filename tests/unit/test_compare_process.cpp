// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "apps/output_file.hpp"
#include "apps/progress.hpp"
#include "apps/subprocess.hpp"
#include "core/error.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

struct Outcome {
  ProcessResult result;
  std::vector<std::string> output;
  std::vector<std::string> errors;
};

Outcome run_shell(const std::string& script, ProcessRequest request = {}) {
  Outcome outcome;
  request.arguments = {"/bin/sh", "-c", script};
  request.on_output = [&outcome](std::string_view line) { outcome.output.emplace_back(line); };
  request.on_error = [&outcome](std::string_view line) { outcome.errors.emplace_back(line); };
  outcome.result = run_process(request);
  return outcome;
}

/// Whether the process is there and not merely waiting to be reaped.
bool is_alive(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  std::getline(file, text);
  const std::size_t end = text.rfind(')');
  return end != std::string::npos && text.at(end + 2) != 'Z';
}

bool disappears(pid_t process) {
  for (int i = 0; i < 100 && is_alive(process); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return !is_alive(process);
}

TEST(Subprocess, LinesOfBothStreamsComeWhole) {
  const Outcome outcome = run_shell("printf 'a\\nb\\r\\n\\nlast'; echo wrong >&2");
  EXPECT_TRUE(outcome.result.succeeded());
  EXPECT_EQ(outcome.output, (std::vector<std::string>{"a", "b", "", "last"}));
  EXPECT_EQ(outcome.errors, (std::vector<std::string>{"wrong"}));
}

TEST(Subprocess, LongOutputIsNotLost) {
  const Outcome outcome =
      run_shell("i=0; while [ $i -lt 20000 ]; do echo line$i; i=$((i+1)); done");
  ASSERT_EQ(outcome.output.size(), 20000u);
  EXPECT_EQ(outcome.output.back(), "line19999");
}

TEST(Subprocess, InputAndEnvironmentReachTheProgram) {
  ProcessRequest request;
  request.input = "typed\n";
  request.environment = {{"PORTOLAN_TEST_VARIABLE", "two words"}};
  const Outcome outcome =
      run_shell("cat; echo \"$PORTOLAN_TEST_VARIABLE\"; echo \"$HOME\"", request);
  EXPECT_EQ(outcome.output[0], "typed");
  EXPECT_EQ(outcome.output[1], "two words");
  EXPECT_EQ(outcome.output.size(), 3u);
}

TEST(Subprocess, ExitCodesAndSignalsAreTold) {
  EXPECT_EQ(run_shell("exit 3").result.describe(), "exit code 3");
  const ProcessResult killed = run_shell("kill -9 $$").result;
  EXPECT_EQ(killed.signal, SIGKILL);
  EXPECT_FALSE(killed.succeeded());
  EXPECT_EQ(killed.describe().rfind("ended by signal 9", 0), 0u);
}

TEST(Subprocess, ProgramThatIsNotThereIsAnError) {
  ProcessRequest request;
  request.arguments = {"/nonexistent/program"};
  try {
    static_cast<void>(run_process(request));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/nonexistent/program"), std::string::npos);
  }
}

TEST(Subprocess, SilenceEndsTheProgramAndItsChildren) {
  ProcessRequest request;
  request.silence_limit_s = 0.3;
  const Outcome outcome = run_shell("setsid sleep 100 & echo $!; wait", request);
  EXPECT_TRUE(outcome.result.timed_out);
  EXPECT_FALSE(outcome.result.succeeded());
  EXPECT_EQ(outcome.result.describe(), "no sign of life for 0.3 s");
  EXPECT_TRUE(disappears(std::stoi(outcome.output.at(0))));
}

TEST(Subprocess, NoDescendantOutlivesAProgramThatEnds) {
  // In a session of its own, and handed to init by the end of its parent.
  const Outcome outcome = run_shell("(setsid sleep 100 >/dev/null 2>&1 & echo $!); exit 0");
  EXPECT_TRUE(outcome.result.succeeded());
  EXPECT_TRUE(disappears(std::stoi(outcome.output.at(0))));
}

TEST(Subprocess, WhatACallbackThrowsEndsTheProgram) {
  ProcessRequest request;
  pid_t process = 0;
  request.arguments = {"/bin/sh", "-c", "echo $$; sleep 100"};
  request.on_output = [&process](std::string_view line) {
    process = std::stoi(std::string(line));
    throw std::runtime_error("enough");
  };
  EXPECT_THROW(static_cast<void>(run_process(request)), std::runtime_error);
  EXPECT_TRUE(disappears(process));
}

TEST(Subprocess, SignalsToThisProcessEndTheProgramInstead) {
  ProcessRequest request;
  Outcome outcome;
  request.arguments = {"/bin/sh", "-c", "echo started; sleep 100"};
  // To this thread: the tests have others, which do not wait for signals.
  request.on_output = [](std::string_view) { ::raise(SIGTERM); };
  const ProcessResult result = run_process(request);
  EXPECT_EQ(result.interrupted_by, SIGTERM);
  EXPECT_EQ(result.signal, SIGTERM) << "the program got it";
  EXPECT_EQ(result.describe().rfind("interrupted by signal 15", 0), 0u);
}

TEST(OutputFile, ReplacesWholeFilesAndLeavesNothingElse) {
  const testing::TemporaryFolder folder;
  write_file(folder / "a", "one");
  write_file(folder / "a", "two");
  EXPECT_EQ(testing::read_file(folder / "a"), "two");
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a"});
  EXPECT_THROW(write_file(folder / "none" / "a", "x"), Error);
}

TEST(OutputFile, FoldersAreMadeAndProbed) {
  const testing::TemporaryFolder folder;
  prepare_output_folder(folder / "a" / "b");
  prepare_output_folder(folder / "a" / "b");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "a" / "b"));
  EXPECT_TRUE(std::filesystem::is_empty(folder / "a" / "b"));
  write_file(folder / "file", "x");
  EXPECT_THROW(prepare_output_folder(folder / "file"), UsageError);
  EXPECT_THROW(prepare_output_folder(folder / "file" / "below"), UsageError);
}

TEST(OutputFile, TemporaryFolderDisappearsWithItsContents) {
  const testing::TemporaryFolder parent;
  std::filesystem::path path;
  {
    const TemporaryFolder folder(parent.path(), "x");
    path = folder.path();
    EXPECT_TRUE(path.is_absolute());
    write_file(path / "x", "y");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(parent.names().empty());
}

TEST(OutputFile, TemporaryFolderRemovesThoseThatNobodyHolds) {
  const testing::TemporaryFolder parent;
  const TemporaryFolder held(parent.path(), "x");
  std::filesystem::create_directories(parent / ".x.portolan-abcdef" / "below");
  std::filesystem::create_directory(parent / ".xx.portolan-abcdef");
  const std::string longest(255, 'n');
  {
    const TemporaryFolder next(parent.path(), "x");
    EXPECT_NE(next.path(), held.path());
    EXPECT_TRUE(std::filesystem::exists(held.path()));
    EXPECT_FALSE(std::filesystem::exists(parent / ".x.portolan-abcdef"));
    EXPECT_TRUE(std::filesystem::exists(TemporaryFolder(parent.path(), longest).path()));
  }
  EXPECT_EQ(parent.names(),
            (std::vector<std::string>{held.path().filename().string(), ".xx.portolan-abcdef"}));
}

TEST(ProgressClock, IsReadable) {
  EXPECT_EQ(clock_text(-1.0), "0 s");
  EXPECT_EQ(clock_text(59.4), "59 s");
  EXPECT_EQ(clock_text(187.0), "3:07");
  EXPECT_EQ(clock_text(3723.0), "1:02:03");
}

}  // namespace
}  // namespace portolan
