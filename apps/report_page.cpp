// SPDX-License-Identifier: Apache-2.0
#include "apps/report_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "apps/html.hpp"
#include "apps/report_plots.hpp"
#include "apps/report_tables.hpp"
#include "apps/report_text.hpp"
#include "core/error.hpp"
#include "runtime/version.hpp"

namespace portolan {
namespace {

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #dfe4ea; --paper: #fff;
  --wash: #f6f8fa; --accent: #0b6e99; --alarm: #a4262c; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 0 20px 48px; }
header { padding: 36px 0 8px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 1.25rem; margin: 0 0 12px; }
h3 { font-size: 1rem; margin: 20px 0 8px; }
header p { margin: 0; color: var(--soft); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 22px 24px; margin: 20px 0; }
section > p, section > ul { max-width: 50rem; }
p { margin: 0 0 12px; }
ul { margin: 0; padding-left: 1.2em; } li { margin: 6px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; letter-spacing: -0.01em; }
.tile span { color: var(--soft); font-size: 0.86rem; line-height: 1.3; display: block;
  margin-top: 4px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 8px 24px; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: 0.9rem; margin: 0 0 4px; font-weight: 600; }
.scroll { overflow-x: auto; margin: 0 0 4px; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums;
  width: 100%; }
caption { text-align: left; color: var(--soft); padding: 0 0 8px; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 2px solid var(--line);
  padding: 6px 10px 6px 0; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: 5px 10px 5px 0; vertical-align: top; }
th.n, td.n { text-align: right; white-space: nowrap; padding: 5px 0 5px 12px; }
th.n { white-space: normal; }
tr.remark td { color: var(--soft); font-size: 0.82rem; padding-bottom: 12px; }
tr.refused td { color: var(--alarm); } tr.refused + tr.remark td { color: var(--alarm); }
tr.published td { background: #fbf7ef; }
tr.none td:first-child, tr.tp td:first-child, tr.sp td:first-child, tr.ring td:first-child {
  font-weight: 600; }
tr.none td:first-child { color: #52606d; } tr.tp td:first-child { color: #0072b2; }
tr.sp td:first-child { color: #d55e00; } tr.ring td:first-child { color: #00805d; }
.facts td { overflow-wrap: anywhere; } .facts td:first-child { color: var(--soft);
  white-space: nowrap; padding-right: 20px; }
.facts thead { display: none; }
dl { columns: 2 380px; column-gap: 40px; margin: 18px 0 0; }
dl > div { break-inside: avoid; margin-bottom: 18px; }
dt { font-weight: 600; } dd { margin: 2px 0 0; font-size: 0.94rem; }
cite { font-style: normal; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--accent); font-weight: 600; }
footer { color: var(--soft); font-size: 0.85rem; }
@media (max-width: 600px) { main { padding: 0 12px 32px; } section { padding: 16px 14px; }
  h1 { font-size: 1.5rem; } .facts td:first-child { white-space: normal; } }
@media print { body { background: #fff; font-size: 10pt; } main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin: 14pt 0; } figure, .tile, dl > div, tr { break-inside: avoid; }
  h2, h3, figcaption { break-after: avoid; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } .figures { grid-template-columns: 1fr 1fr; } }
)css";

std::string figures_html(const std::vector<Figure>& figures) {
  std::string text = "<div class=\"figures\">\n";
  for (const Figure& figure : figures) {
    text += fmt::format("<figure><figcaption>{}</figcaption>\n{}</figure>\n",
                        html_escape(figure.caption), figure.svg);
  }
  return text + "</div>\n";
}

/// Empty when there is nothing in it.
std::string section(const std::string& title, const std::string& content) {
  if (content.empty()) return {};
  return fmt::format("<section>\n<h2>{}</h2>\n{}</section>\n", html_escape(title), content);
}

std::string figure_section(const std::string& title, const std::string& introduction,
                           const std::vector<Figure>& figures) {
  if (figures.empty()) return {};
  return section(title, "<p>" + introduction + "</p>\n" + figures_html(figures));
}

/// "2025-11-21T10:15:00Z" as "2025-11-21 10:15 UTC"; other text as it is.
std::string readable_date(const std::string& text) {
  if (text.size() != 20 || text[10] != 'T' || text[19] != 'Z') return text;
  return text.substr(0, 10) + " " + text.substr(11, 5) + " UTC";
}

std::string date_of(const Comparison& comparison) {
  const auto& environment = comparison.environment;
  return environment.contains("date") && environment["date"].is_string()
             ? readable_date(environment["date"].get<std::string>())
             : std::string("unknown date");
}

/// A part for each comparison, with the machine's name above where there are several.
template <typename Part>
std::string parts(const std::vector<Comparison>& comparisons, Part part) {
  std::string text;
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    const std::string content = part(comparisons[i]);
    if (content.empty()) continue;
    if (comparisons.size() > 1) {
      text +=
          fmt::format("<h3>Machine {}: {}</h3>\n", i + 1, html_escape(comparisons[i].machine()));
    }
    text += content;
  }
  return text;
}

std::vector<Figure> with_relative_times(const std::vector<Comparison>& comparisons,
                                        const Gnuplot& gnuplot) {
  std::vector<Figure> figures = latency_figures(comparisons, gnuplot);
  for (Figure& figure : relative_figures(comparisons, gnuplot)) {
    figures.push_back(std::move(figure));
  }
  return figures;
}

std::string page_header(const std::vector<Comparison>& comparisons) {
  std::string text = "<header>\n<h1>Tensor, sequence and ring parallelism, measured alike</h1>\n";
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    const std::string number = comparisons.size() > 1 ? fmt::format("Machine {}: ", i + 1) : "";
    text +=
        fmt::format("<p>{}{} · {} · {}</p>\n", number, html_escape(experiment_text(comparisons[i])),
                    html_escape(comparisons[i].machine()), html_escape(date_of(comparisons[i])));
  }
  return text + "</header>\n";
}

std::string page_body(const std::vector<Comparison>& comparisons, const Gnuplot& gnuplot) {
  const std::string resources = resources_text(comparisons);
  std::string text = page_header(comparisons);
  if (comparisons.size() == 1) text += summary_tiles(comparisons.front());
  text += section("What the rows say", findings_list(comparisons));
  if (comparisons.size() > 1) text += section("Machines side by side", machines_table(comparisons));
  text += figure_section("Latency",
                         "Median seconds of one forward; the bars reach from the fastest to the "
                         "slowest. " +
                             resources,
                         with_relative_times(comparisons, gnuplot));
  text += figure_section(
      "Ranks", "Time and memory at the longest length over the number of ranks. " + resources,
      scaling_figures(comparisons, gnuplot));
  text += figure_section(
      "Memory per rank",
      "Peaks of the rank with the most. TP and SP split the weights; <em>none</em> and ring "
      "attention hold all of them on every rank.",
      memory_figures(comparisons, gnuplot));
  text +=
      figure_section("Communication",
                     "Time inside collectives, waiting for the other ranks included, as a share "
                     "of the median forward.",
                     communication_figures(comparisons, gnuplot));
  const std::vector<Figure> ratios = ratio_figures(comparisons, gnuplot);
  if (!ratios.empty()) {
    text += section("Beside the published figures",
                    "<p>What SP changes against TP, here and in the published tables. Read it with "
                    "the section on what can be compared.</p>\n" +
                        figures_html(ratios) + published_table(comparisons));
  } else {
    text += section("The published figures", published_table(comparisons));
  }
  const std::vector<Figure> orders = protocol_figures(comparisons, gnuplot);
  if (!orders.empty()) {
    text += section("What the published order of events changes",
                    protocol_section() + figures_html(orders) + parts(comparisons, protocol_table));
  }
  text += section("What the published figures can be compared with", comparability_section());
  text += section("All rows", method_section(comparisons) + parts(comparisons, rows_table));
  text +=
      section("Proof that the modes were on",
              "<p>What the communicator counted, and what the plan says in closed form. A row in "
              "which they differ is refused.</p>\n" +
                  parts(comparisons, counters_table));
  text += section("Circumstances", parts(comparisons, [](const Comparison& comparison) {
                    const std::string table = environment_table(comparison);
                    return table.empty() ? table : "<div class=\"facts\">" + table + "</div>\n";
                  }));
  return text;
}

}  // namespace

std::string report_page(const std::vector<Comparison>& comparisons, const Gnuplot& gnuplot) {
  require(!comparisons.empty(), "a report needs at least one comparison");
  const std::string title =
      comparisons.size() == 1
          ? fmt::format("Portolan comparison: {}", experiment_text(comparisons.front()))
          : fmt::format("Portolan comparison of {} machines", comparisons.size());
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n"
      "<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}"
      "<footer><p>Written by portolan {}.</p></footer>\n</main>\n</body>\n</html>\n",
      html_escape(title), kStyle, page_body(comparisons, gnuplot), build_information().version);
}

}  // namespace portolan
