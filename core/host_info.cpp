// SPDX-License-Identifier: Apache-2.0
#include "core/host_info.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "core/trimmed.hpp"

namespace portolan {

namespace {

constexpr std::string_view kBlank = " \t\r";

std::set<std::string, std::less<>> words_of(std::string_view text) {
  std::istringstream stream{std::string(text)};
  return {std::istream_iterator<std::string>(stream), {}};
}

}  // namespace

bool HostInfo::has(std::string_view feature) const {
  return std::find(cpu_features.begin(), cpu_features.end(), feature) != cpu_features.end();
}

HostInfo parse_cpu_info(std::string_view text) {
  HostInfo info;
  info.cpu_model = "unknown";
  // Cores may differ (hybrid processors): only what every one has may be relied on.
  std::set<std::string, std::less<>> common;
  bool first = true;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view key = trimmed(line.substr(0, colon), kBlank);
    const std::string_view value = trimmed(line.substr(colon + 1), kBlank);
    if (key == "model name" && info.cpu_model == "unknown" && !value.empty()) {
      info.cpu_model = value;
    } else if (key == "flags" || key == "Features") {
      const auto words = words_of(value);
      if (first) common = words;
      std::erase_if(common, [&](const std::string& word) { return !words.contains(word); });
      first = false;
    }
  }
  for (const std::string_view feature : kCpuFeatures) {
    if (common.contains(feature)) info.cpu_features.emplace_back(feature);
  }
  return info;
}

HostInfo host_info() {
  std::ifstream file("/proc/cpuinfo");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  HostInfo info = parse_cpu_info(text);
  utsname names{};
  if (uname(&names) == 0) {
    info.host_name = names.nodename;
    info.operating_system = std::string(names.sysname) + " " + names.release;
    info.architecture = names.machine;
  } else {
    info.host_name = info.operating_system = info.architecture = "unknown";
  }
  return info;
}

}  // namespace portolan
