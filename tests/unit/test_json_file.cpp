// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/printable.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using testing::input_error;
using testing::TemporaryFolder;
using testing::write_file;

std::string refusal(const std::string& text, const JsonLimits& limits = {}) {
  return input_error([&] { static_cast<void>(parse_json(text, "f.json", limits)); });
}

TEST(Json, ReadsEveryKindOfValue) {
  const auto document = parse_json(
      R"( {"a": [1, -2, 2.5, 1e3], "b": {"c": null, "d": true}, "e": "\u00e4\ud83d\ude00", "f": []} )",
      "f.json");
  EXPECT_EQ(document.at("a"), nlohmann::json({1, -2, 2.5, 1000.0}));
  EXPECT_TRUE(document.at("b").at("c").is_null());
  EXPECT_EQ(document.at("b").at("d"), true);
  EXPECT_EQ(document.at("e"), "\xc3\xa4\xf0\x9f\x98\x80");
  EXPECT_TRUE(document.at("f").empty());
  EXPECT_EQ(parse_json("7", "f.json"), 7);
}

TEST(Json, RefusesWhatIsNotJsonToTheLetter) {
  for (const std::string text : {"",
                                 " ",
                                 "{",
                                 "[1,]",
                                 "{\"a\":1,}",
                                 "{'a':1}",
                                 "{a:1}",
                                 "[1 2]",
                                 "// x\n1",
                                 "/* x */ 1",
                                 "NaN",
                                 "Infinity",
                                 "-Infinity",
                                 "+1",
                                 "01",
                                 ".5",
                                 "5.",
                                 "0x10",
                                 "True",
                                 "1e999",
                                 "-1e999",
                                 "\"\t\"",
                                 "\"\\x41\"",
                                 "\"\\ud800\"",
                                 "\"\\udc00\\ud800\"",
                                 "\"\xff\"",
                                 "\"\xc0\x80\"",
                                 "\"\xed\xa0\x80\"",
                                 "{} {}",
                                 "1 x"}) {
    const std::string message = refusal(text);
    EXPECT_TRUE(message.starts_with("f.json: ")) << text << " -> " << message;
  }
}

TEST(Json, RefusesBytesAfterAZeroByte) {
  EXPECT_NE(refusal(std::string("{}\0garbage", 10)).find("zero byte"), std::string::npos);
  EXPECT_NE(refusal(std::string("{}\0", 3)).find("zero byte"), std::string::npos);
}

TEST(Json, RefusesKeysThatAppearTwiceInOneObjectAtAnyDepth) {
  EXPECT_NE(refusal(R"({"a":1,"b":2,"a":1})").find("field 'a'"), std::string::npos);
  EXPECT_NE(refusal(R"({"x":[{"k":1,"\u006b":2}]})").find("field 'k'"), std::string::npos);
  EXPECT_EQ(parse_json(R"([{"k":1},{"k":2}])", "f.json").size(), 2u);
}

TEST(Json, NamesTheFieldInWhichTheTextGoesWrong) {
  EXPECT_NE(refusal(R"({"a": {"b": [1, NaN]}})").find("field 'a.b'"), std::string::npos);
  EXPECT_EQ(refusal(R"({"a": 1, })").find("field"), std::string::npos);
}

TEST(Json, LimitsNestingWithoutUsingTheStack) {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_NO_THROW(static_cast<void>(parse_json(nested(64), "f.json")));
  EXPECT_NE(refusal(nested(65)).find("64 levels"), std::string::npos);
  EXPECT_NE(refusal(nested(1'000'000)).find("64 levels"), std::string::npos);
  EXPECT_NE(refusal(std::string(1'000'000, '[')).find("64 levels"), std::string::npos);
}

TEST(Json, LimitsTheSizeOfFilesBeforeReadingThem) {
  const TemporaryFolder folder;
  write_file(folder / "a.json", "[1, 2, 3]");
  EXPECT_EQ(read_json_file(folder / "a.json").size(), 3u);
  const std::string message =
      input_error([&] { static_cast<void>(read_json_file(folder / "a.json", {.bytes = 8})); });
  EXPECT_NE(message.find("at most 8 bytes, found 9"), std::string::npos) << message;
}

TEST(Json, RefusesWhatIsNotARegularFileWithoutWaiting) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe.json").c_str(), 0600), 0);
  for (const std::filesystem::path& path :
       {folder / "pipe.json", folder.path(), folder / "absent.json",
        std::filesystem::path("/dev/zero")}) {
    const std::string message = input_error([&] { static_cast<void>(read_json_file(path)); });
    EXPECT_TRUE(message.starts_with(path.string() + ": ")) << message;
  }
}

TEST(Json, MessagesStayOnOneLineWhateverTheFileHolds) {
  EXPECT_EQ(refusal("{\"a\\nb\": NaN}").find('\n'), std::string::npos);
  EXPECT_LT(refusal("{\"" + std::string(100'000, 'k') + "\": NaN}").size(), 1000u);
  EXPECT_LT(refusal("[" + std::string(100'000, '9') + "x]").size(), 1000u);
}

TEST(JsonObject, ChecksTypeAndRangeAndNamesTheField) {
  const auto document = parse_json(
      R"({"n": 5, "f": 2.5, "s": "8", "b": true, "z": null, "l": [1], "o": {"p": -1},
          "big": 18446744073709551615})",
      "f.json");
  const JsonObject object(document, "f.json");
  EXPECT_EQ(object.integer("n", 1, 5), 5);
  EXPECT_EQ(object.number("n", 0, 10), 5.0);
  EXPECT_EQ(object.number("f", 0, 10), 2.5);
  EXPECT_EQ(object.text("s"), "8");
  EXPECT_TRUE(object.boolean("b"));
  EXPECT_TRUE(object.has("n"));
  EXPECT_FALSE(object.has("z"));
  EXPECT_FALSE(object.has("absent"));
  const auto message = [&](auto&& action) {
    return input_error([&] { static_cast<void>(action()); });
  };
  EXPECT_EQ(message([&] { return object.integer("n", 1, 4); }),
            "f.json: field 'n': expected an integer from 1 to 4, found 5");
  EXPECT_EQ(message([&] { return object.integer("s", 1, 4); }),
            "f.json: field 's': expected an integer from 1 to 4, found the string \"8\"");
  EXPECT_EQ(message([&] { return object.integer("absent", 1, 4); }),
            "f.json: field 'absent': expected an integer from 1 to 4, found no such field");
  EXPECT_EQ(message([&] { return object.object("o").integer("p", 0, 4); }),
            "f.json: field 'o.p': expected an integer from 0 to 4, found -1");
  EXPECT_EQ(message([&] { return object.object("l"); }),
            "f.json: field 'l': expected an object, found a list");
  for (const char* field : {"f", "b", "z", "l", "o", "big"}) {
    EXPECT_FALSE(message([&] { return object.integer(field, 0, 100); }).empty());
  }
  EXPECT_FALSE(message([&] { return object.positive_number("z"); }).empty());
  EXPECT_FALSE(message([&] { return object.boolean("n"); }).empty());
  EXPECT_FALSE(message([&] { return object.text("n"); }).empty());
}

TEST(Printable, EscapesControlsAndInvalidUtf8AndKeepsTheRest) {
  EXPECT_EQ(printable("plain"), "plain");
  EXPECT_EQ(printable("n\xc3\xa4me \xf0\x9f\x98\x80"), "n\xc3\xa4me \xf0\x9f\x98\x80");
  EXPECT_EQ(printable("a\nb\x1b[0m\x7f"), "a\\x0ab\\x1b[0m\\x7f");
  EXPECT_EQ(printable("\xff\xc3("), "\\xff\\xc3(");
  EXPECT_EQ(printable("\xc2\x85"), "\\xc2\\x85");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(printable(std::string(200, 'x'), 10), std::string(10, 'x') + "...");
}

}  // namespace
}  // namespace portolan
