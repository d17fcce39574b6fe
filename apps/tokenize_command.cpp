// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/commands.hpp"
#include "apps/launch.hpp"
#include "apps/line_reader.hpp"
#include "apps/options.hpp"
#include "core/error.hpp"
#include "core/json_file.hpp"
#include "models/tokenizers/tokenizer.hpp"

namespace portolan {
namespace {

using nlohmann::json;

struct TokenizeOptions {
  std::string model;
  std::string tokenizer;
  bool no_special = false;
  bool decode = false;
  bool skip_special = false;
  CommonOptions common;
};

Tokenizer open_tokenizer(const TokenizeOptions& options) {
  require(!options.model.empty() || !options.tokenizer.empty(), "--model or --tokenizer is needed");
  return load_tokenizer(options.tokenizer.empty() ? options.model : options.tokenizer);
}

[[noreturn]] void fail(const std::string& where, std::string_view expected, const json& found) {
  throw InputError(fmt::format("{}: expected {}, found {}", where, expected, describe(found)));
}

json encode_line(const Tokenizer& tokenizer, const json& line, const std::string& where,
                 bool add_special) {
  if (!line.is_string()) fail(where, "a string", line);
  return tokenizer.encode(line.get_ref<const std::string&>(), add_special);
}

json decode_line(const Tokenizer& tokenizer, const json& line, const std::string& where,
                 bool skip_special) {
  if (!line.is_array()) fail(where, "a list of ids", line);
  std::vector<TokenId> ids;
  ids.reserve(line.size());
  for (const json& item : line) {
    // Comparing JSON numbers is exact whatever their type is.
    const bool in_range = item.is_number_integer() && item >= 0 && item < kTokenIdLimit;
    if (!in_range || !tokenizer.token(item.get<TokenId>())) {
      fail(where, "ids of the tokenizer's vocabulary", item);
    }
    ids.push_back(item.get<TokenId>());
  }
  return tokenizer.decode(ids, skip_special);
}

void print_line(const json& value) {
  const std::string text = value.dump(-1, ' ', true) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    throw Error("stdout: what was tokenized could not be written");
  }
}

void run_tokenize(const TokenizeOptions& options) {
  // Under a launcher one stdin may be given to all ranks: the first answers it.
  if (launched_rank() != 0) return;
  const Tokenizer tokenizer = open_tokenizer(options);
  LineReader reader(STDIN_FILENO, "stdin");
  std::size_t number = 0;
  while (const auto text = reader.next()) {
    const std::string where = fmt::format("stdin: line {}", ++number);
    const json line = parse_json(*text, where, {.bytes = LineReader::kLongestLine});
    print_line(options.decode ? decode_line(tokenizer, line, where, options.skip_special)
                              : encode_line(tokenizer, line, where, !options.no_special));
    if (!reader.has_line() && std::fflush(stdout) != 0) {
      throw Error("stdout: what was tokenized could not be written");
    }
  }
}

}  // namespace

void add_tokenize_command(CLI::App& application) {
  CLI::App& command =
      *application.add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  auto options = std::make_shared<TokenizeOptions>();
  command
      .add_option("--model", options->model,
                  "A model's folder: its tokenizer.json is used, else its tokenizer.model")
      ->type_name("DIR");
  command
      .add_option("--tokenizer", options->tokenizer,
                  "This tokenizer.json or tokenizer.model instead")
      ->type_name("FILE");
  CLI::Option* decode =
      command.add_flag("--decode", options->decode, "Read lists of ids and write text");
  command
      .add_flag("--no-special", options->no_special,
                "Without the special tokens that go round a text")
      ->excludes(decode);
  command
      .add_flag("--skip-special", options->skip_special, "With --decode: leave out special tokens")
      ->needs(decode);
  add_output_options(command, options->common);
  command.get_option("--json")->description("Changes nothing: stdout is JSON Lines in any case");
  command.footer(
      "Reads JSON Lines from stdin and answers each line with one on stdout, non-ASCII characters\n"
      "escaped: a string with a list of ids, or, with --decode, a list of ids with a string. A "
      "line\n"
      "that is neither ends it with exit code 2.\n"
      "\n"
      "Examples:\n"
      "  echo '\"Hello\"' | portolan tokenize --model ~/models/llama-7b\n"
      "  echo '[1, 15043]' | portolan tokenize --model ~/models/llama-7b --decode --skip-special\n"
      "  portolan tokenize --tokenizer tokenizer.model --no-special <texts.jsonl");
  command.callback([options] { run_tokenize(*options); });
}

}  // namespace portolan
