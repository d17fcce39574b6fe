// SPDX-License-Identifier: Apache-2.0
#include "apps/gnuplot.hpp"

#include <fmt/format.h>

#include <string_view>

#include "apps/html.hpp"
#include "apps/launch.hpp"
#include "apps/subprocess.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

constexpr double kSilenceLimitSeconds = 60.0;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

void remove_between(std::string& text, std::string_view from, std::string_view to) {
  const std::size_t start = text.find(from);
  if (start == std::string::npos) return;
  const std::size_t end = text.find(to, start);
  if (end != std::string::npos) text.erase(start, end + to.size() - start);
}

}  // namespace

Gnuplot::Gnuplot() : program_(find_program("gnuplot")) {
  if (program_.empty()) {
    throw UnsupportedError(
        "gnuplot, which draws the report's plots, is not on PATH: scripts/setup installs it "
        "(Debian "
        "package gnuplot-nox)");
  }
}

std::string Gnuplot::svg(const std::string& script, const std::string& name,
                         const std::string& label, int width, int height) const {
  ProcessRequest request;
  request.arguments = {program_, "-"};
  // Neither a user's own start-up file nor locale decides how the plots look.
  request.environment = {{"HOME", "/nonexistent"}, {"LC_ALL", "C.UTF-8"}};
  request.input = fmt::format(
      "set encoding utf8\n"
      "set terminal svg size {},{} dynamic noenhanced rounded font 'system-ui, sans-serif,13'\n{}",
      width, height, script);
  request.silence_limit_s = kSilenceLimitSeconds;
  std::string document;
  std::string message;
  request.on_output = [&](std::string_view line) { document.append(line).push_back('\n'); };
  request.on_error = [&](std::string_view line) { message.append(line).push_back(' '); };
  const ProcessResult result = run_process(request);
  if (result.interrupted_by != 0) throw Error(result.describe());
  if (!result.succeeded() || document.find("</svg>") == std::string::npos) {
    throw Error(fmt::format("gnuplot could not draw plot '{}': {}: {}", name, result.describe(),
                            printable(message, 400)));
  }
  return inline_svg(document, name, label);
}

std::string inline_svg(const std::string& document, const std::string& name,
                       const std::string& label) {
  const std::size_t start = document.find("<svg");
  if (start == std::string::npos) throw Error("gnuplot gave no SVG document");
  std::string text = document.substr(start);
  remove_between(text, "<title>", "</title>");
  remove_between(text, "<desc>", "</desc>");
  for (const char* quote : {"'", "\""}) {
    replace_all(text, fmt::format(" id={}", quote), fmt::format(" id={}{}-", quote, name));
    replace_all(text, fmt::format("href={}#", quote), fmt::format("href={}#{}-", quote, name));
  }
  replace_all(text, "url(#", fmt::format("url(#{}-", name));
  text.insert(4, fmt::format(" role=\"img\" aria-label=\"{}\"", html_escape(label)));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string gnuplot_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\n' || c == '\r') continue;
    quoted += c;
    if (c == '\'') quoted += c;
  }
  return quoted + "'";
}

}  // namespace portolan
