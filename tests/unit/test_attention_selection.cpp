// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>

#include "attention/selection.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "tests/unit/attention_testing.hpp"

namespace portolan::testing_support {
namespace {

AttentionProblem problem_on(Device device, std::int64_t window = 0) {
  AttentionCase test_case{.query_tokens = 40, .key_tokens = 40};
  test_case.mask.window = window;
  return make_setup(test_case, device).problem;
}

TEST(AttentionChoice, IsTheKernelThatIsSelected) {
  for (const auto& backend : registered_backends()) {
    const AttentionProblem problem = problem_on(backend->device());
    const AttentionForwardKernel& kernel = select_attention_forward(problem);
    const AttentionChoice choice = attention_choice(problem, AttentionPass::forward);
    EXPECT_EQ(choice.device, backend->device().kind);
    EXPECT_EQ(choice.method, kernel.method());
    EXPECT_EQ(choice.workspace_bytes, kernel.workspace_bytes(problem));
    EXPECT_FALSE(choice.by_name);
    const AttentionChoice standard =
        attention_choice(problem, AttentionPass::forward, AttentionMethod::standard);
    EXPECT_EQ(standard.method, AttentionMethod::standard);
    EXPECT_TRUE(standard.by_name);
    EXPECT_TRUE(standard.refusals.empty()) << "kernels of other methods are not asked";
  }
}

TEST(AttentionChoice, RefusalsOfAllKernelsAreInTheError) {
  const AttentionProblem problem = problem_on({DeviceKind::cpu, 0});
  for (const AttentionPass pass : {AttentionPass::forward, AttentionPass::backward}) {
    try {
      static_cast<void>(attention_choice(problem, pass, AttentionMethod::window));
      FAIL() << "a window kernel took a problem without a window";
    } catch (const UnsupportedError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("there is no window"), std::string::npos) << message;
      EXPECT_NE(message.find(name_of(pass)), std::string::npos) << message;
    }
  }
  EXPECT_EQ(attention_choice(problem_on({DeviceKind::cpu, 0}, 8), AttentionPass::backward,
                             AttentionMethod::window)
                .method,
            AttentionMethod::window);
}

TEST(AttentionChoice, TextSaysWhyAndWhoWasPassedOver) {
  AttentionChoice choice{.pass = AttentionPass::backward,
                         .device = DeviceKind::serial,
                         .method = AttentionMethod::standard};
  EXPECT_EQ(choice.to_string(), "backward: standard on serial (the first that serves the problem)");
  choice.refusals = {{AttentionMethod::flash, "it takes no block map"},
                     {AttentionMethod::window, "there is no window"}};
  EXPECT_EQ(choice.to_string(),
            "backward: standard on serial (the first that serves the problem; passed over: flash: "
            "it takes no block map; window: there is no window)");
  choice.refusals.clear();
  choice.by_name = true;
  EXPECT_EQ(choice.to_string(), "backward: standard on serial (asked for)");
}

}  // namespace
}  // namespace portolan::testing_support
