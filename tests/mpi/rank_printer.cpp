// SPDX-License-Identifier: Apache-2.0
#include "tests/mpi/rank_printer.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

namespace portolan {
namespace {

class FailurePrinter final : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}

  void OnTestStart(const testing::TestInfo& test) override {
    test_ = fmt::format("{}.{}", test.test_suite_name(), test.name());
  }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    // In one piece: lines of several ranks must not mix.
    const std::string text = fmt::format("[rank {}] {}: {}:{}: {}\n", rank_, test_,
                                         result.file_name() == nullptr ? "?" : result.file_name(),
                                         result.line_number(), result.message());
    std::fwrite(text.data(), 1, text.size(), stderr);
  }

 private:
  int rank_;
  // Asking GoogleTest for the current test here would lock what it holds while it reports.
  std::string test_;
};

}  // namespace

void print_tests_from_rank_zero(int rank) {
  if (rank == 0) return;
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new FailurePrinter(rank));  // the list owns it
}

}  // namespace portolan
