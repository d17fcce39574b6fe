// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <span>

#include "core/error.hpp"
#include "core/pickle.hpp"
#include "tests/unit/file_testing.hpp"
#include "tests/unit/pickle_testing.hpp"

namespace portolan {
namespace {

using testing::input_error;
using testing::number_bytes;
namespace pickle = testing::pickle;

constexpr std::array<std::string_view, 3> kAllowed{"collections.OrderedDict", "torch.FloatStorage",
                                                   "torch._utils._rebuild_tensor_v2"};

PickleDocument parse(const std::string& bytes, const PickleLimits& limits = {}) {
  return parse_pickle(std::as_bytes(std::span(bytes)), "file", kAllowed, limits);
}

PickleDocument parse_value(const std::string& value) { return parse(pickle::document(value)); }

std::string refusal(const std::string& bytes, const PickleLimits& limits = {}) {
  const std::string message = input_error([&] { static_cast<void>(parse(bytes, limits)); });
  EXPECT_TRUE(message.starts_with("file: ")) << message;
  return message;
}

std::string refusal_of_value(const std::string& value) { return refusal(pickle::document(value)); }

void expect_contains(const std::string& text, std::string_view word) {
  EXPECT_NE(text.find(word), std::string::npos) << text;
}

TEST(Pickle, ValuesComeOutAsPythonWroteThem) {
  // pickle.dumps({"a": [1, -2, 70000, 2**40, -1 << 40, 2.5, True, False, None], "t": (1, ())}, 2)
  const std::string bytes =
      std::string("\x80\x02}q\x00(", 6) + pickle::text("a") + std::string("q\x01]q\x02(K\x01J", 9) +
      number_bytes(0xFFFFFFFEU, 4) + std::string("J") + number_bytes(70000, 4) + "\x8a\x06" +
      number_bytes(std::uint64_t{1} << 40, 6) + "\x8a\x06" +
      number_bytes(~std::uint64_t{0} << 40, 6) + std::string("G@\x04\0\0\0\0\0\0", 9) +
      "\x88\x89Ne" + pickle::text("t") + std::string("q\x03K\x01)\x86q\x04u.", 10);
  const PickleDocument document = parse(bytes);
  const auto* root = document.get<PickleDictionary>(document.root);
  ASSERT_NE(root, nullptr);
  ASSERT_EQ(root->items.size(), 2u);
  EXPECT_EQ(*document.get<std::string>(root->items[0].first), "a");
  const auto& list = document.get<PickleList>(root->items[0].second)->items;
  ASSERT_EQ(list.size(), 9u);
  const std::array<std::int64_t, 5> integers{1, -2, 70000, std::int64_t{1} << 40,
                                             -(std::int64_t{1} << 40)};
  for (std::size_t i = 0; i < integers.size(); ++i) {
    EXPECT_EQ(*document.get<std::int64_t>(list[i]), integers[i]);
  }
  EXPECT_EQ(*document.get<double>(list[5]), 2.5);
  EXPECT_TRUE(*document.get<bool>(list[6]));
  EXPECT_FALSE(*document.get<bool>(list[7]));
  EXPECT_NE(document.get<PickleNone>(list[8]), nullptr);
  const auto& tuple = document.get<PickleTuple>(root->items[1].second)->items;
  ASSERT_EQ(tuple.size(), 2u);
  EXPECT_TRUE(document.get<PickleTuple>(tuple[1])->items.empty());
}

TEST(Pickle, WhatWasRememberedIsTheSameValue) {
  const PickleDocument document =
      parse_value(std::string("(") + pickle::text("x") + std::string("q\x07h\x07t", 5));
  const auto& items = document.get<PickleTuple>(document.root)->items;
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[0], items[1]);
}

TEST(Pickle, CallsAreDescribedAndNotMade) {
  const PickleDocument document =
      parse_value(pickle::global("torch._utils", "_rebuild_tensor_v2") + "K\x01\x85R");
  const auto* call = document.get<PickleCall>(document.root);
  ASSERT_NE(call, nullptr);
  EXPECT_EQ(document.get<PickleGlobal>(call->function)->name, "torch._utils._rebuild_tensor_v2");
}

TEST(Pickle, OrderedDictionariesAreDictionariesWhoseAttributesAreDropped) {
  const PickleDocument document =
      parse_value(pickle::global("collections", "OrderedDict") + ")R(" + pickle::text("k") +
                  "K\x01u}" + pickle::text("_metadata") + "}sb");
  const auto* dictionary = document.get<PickleDictionary>(document.root);
  ASSERT_NE(dictionary, nullptr);
  EXPECT_EQ(dictionary->items.size(), 1u);
}

TEST(Pickle, GlobalsOutsideTheListAreRefusedByName) {
  expect_contains(refusal_of_value(pickle::global("os", "system") +
                                   pickle::tuple({pickle::text("true")}) + "R"),
                  "global 'os.system'");
  expect_contains(refusal_of_value(pickle::global("builtins", "eval")), "'builtins.eval'");
  // The dot is part of the name either way, but not of an allowed name's module.
  expect_contains(refusal_of_value(pickle::global("torch", "FloatStorage.__class__")),
                  "FloatStorage.__class__");
  expect_contains(refusal_of_value(pickle::global("a\x1b[31m", "b")), "\\x1b");
}

TEST(Pickle, OtherOpcodesAreRefusedByName) {
  const std::pair<std::string, const char*> cases[] = {{"\x93", "STACK_GLOBAL"},
                                                       {"\x81", "NEWOBJ"},
                                                       {"ios\nsystem\n", "INST"},
                                                       {"\x82\x01", "EXT1"},
                                                       {"o", "OBJ"},
                                                       {"I1\n", "INT"},
                                                       {"Vx\n", "UNICODE"},
                                                       {"\x94", "MEMOIZE"},
                                                       {"\xff", "0xff"},
                                                       {"P1\n", "PERSID"},
                                                       {"B\x01\x01\x01\x01", "BINBYTES"}};
  for (const auto& [bytes, name] : cases) {
    const std::string message = refusal_of_value("N" + bytes);
    expect_contains(message, name);
    expect_contains(message, "byte 3");
  }
}

TEST(Pickle, OtherProtocolsAreRefused) {
  expect_contains(refusal("\x80\x04N."), "protocol 2, found 4");
  expect_contains(refusal("N."), "PROTO");
  expect_contains(refusal("(dp0\n."), "PROTO");
}

TEST(Pickle, CutOffPicklesAreRefusedWhereverTheyEnd) {
  const std::string whole =
      pickle::document(testing::pickled_dictionary({{"x", testing::PickledTensor{}.bytes()}}));
  EXPECT_NO_THROW(static_cast<void>(parse(whole)));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(refusal(whole.substr(0, length)).empty()) << length;
  }
  expect_contains(refusal(whole + "N"), "1 bytes follow");
}

TEST(Pickle, StackAndMarksAreChecked) {
  EXPECT_FALSE(refusal_of_value("").empty());
  EXPECT_FALSE(refusal_of_value("NN").empty());
  EXPECT_FALSE(refusal_of_value("N(").empty());
  EXPECT_FALSE(refusal_of_value("t").empty());
  EXPECT_FALSE(refusal_of_value("N(\x85").empty()) << "a mark is a floor";
  EXPECT_FALSE(refusal_of_value("R").empty());
  EXPECT_FALSE(refusal_of_value("Q").empty());
  EXPECT_FALSE(refusal_of_value("NNa").empty()) << "None is no list";
  EXPECT_FALSE(refusal_of_value("}(Nu").empty()) << "a key without value";
  EXPECT_FALSE(refusal_of_value("N)R").empty()) << "None cannot be called";
  EXPECT_FALSE(refusal_of_value("N}b").empty()) << "None has no attributes";
  EXPECT_FALSE(refusal_of_value(pickle::global("torch", "FloatStorage") + "NR").empty());
  EXPECT_FALSE(refusal_of_value(std::string("q\x01", 2)).empty());
  EXPECT_FALSE(refusal_of_value(std::string("h\x01", 2)).empty());
}

TEST(Pickle, TextHasToBeUtf8AndIntegersToFit) {
  expect_contains(refusal_of_value(std::string("X") + number_bytes(1, 4) + "\xff"), "UTF-8");
  expect_contains(refusal_of_value(std::string("\x8a\x09") + std::string(9, '\x01')), "9 bytes");
  EXPECT_FALSE(refusal_of_value(std::string("X") + number_bytes(0xFFFFFFFFU, 4) + "x").empty());
}

TEST(Pickle, MemoryIsBounded) {
  const std::int64_t before = testing::resident_bytes();
  // A memo that a list would have to be 16 GB long for.
  EXPECT_NO_THROW(static_cast<void>(parse_value(std::string("Nr") + number_bytes(0xFFFFFFFFU, 4))));
  PickleLimits limits;
  limits.values = 1000;
  expect_contains(refusal(pickle::document(std::string(2000, 'N')), limits), "more than 1000");
  expect_contains(refusal(pickle::document(std::string(2000, '(')), limits), "more than 1000");
  std::string gets = "Nq\x01";
  for (int i = 0; i < 2000; ++i) gets += std::string("h\x01", 2);
  expect_contains(refusal(pickle::document(gets), limits), "more than 1000");
  limits.bytes = 10;
  expect_contains(refusal(pickle::document(std::string(20, 'N')), limits), "at most 10 bytes");
  EXPECT_LT(testing::resident_bytes() - before, std::int64_t{64} << 20);
}

TEST(Pickle, DeepNestingAndCirclesNeedNoStack) {
  constexpr int kDepth = 300000;
  std::string nested;
  for (int i = 0; i < kDepth; ++i) nested += "]";
  for (int i = 1; i < kDepth; ++i) nested += "a";
  EXPECT_NO_THROW(static_cast<void>(parse_value(nested)));
  const PickleDocument circle =
      parse_value(std::string("]q\x01h\x01"
                              "a",
                              6));
  EXPECT_EQ(circle.get<PickleList>(circle.root)->items.front(), circle.root);
}

}  // namespace
}  // namespace portolan
