// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "apps/gnuplot.hpp"
#include "apps/html.hpp"
#include "apps/report_plots.hpp"
#include "apps/report_text.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size())
    ++count;
  return count;
}

TEST(ReportHtml, TextIsEscaped) {
  EXPECT_EQ(html_escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
  EXPECT_EQ(html_escape("tab\tbell\a"), "tab bell ");
  EXPECT_EQ(html_escape("\xC3\xA9\xFF"), "\xC3\xA9\xEF\xBF\xBD");
}

TEST(ReportHtml, TableHasHeaderRowsAndRemarks) {
  HtmlTable table({"name", "value"}, 1);
  EXPECT_TRUE(table.empty());
  table.add({"<x>", "1"}, "tp");
  table.add_remark("a & b");
  const std::string html = table.html("caption");
  EXPECT_TRUE(contains(html, "<caption>caption</caption>"));
  EXPECT_TRUE(contains(html, "<th scope=\"col\" class=\"n\">value</th>"));
  EXPECT_TRUE(contains(html, "<tr class=\"tp\"><td>&lt;x&gt;</td><td class=\"n\">1</td></tr>"));
  EXPECT_TRUE(contains(html, "<td colspan=\"2\">a &amp; b</td>"));
  EXPECT_THROW(table.add({"one"}), UsageError);
}

LinePlot two_points(double first, double last) {
  LinePlot plot;
  plot.x_label = "length";
  plot.y_label = "it's seconds";
  plot.error_bars = true;
  plot.series.push_back({"tp", "#0072b2", 5, 1, {{first, 1.0, 0.5, 2.0}, {last, 2.0, 1.5, 3.0}}});
  return plot;
}

TEST(ReportPlots, LineScriptHoldsDataRangesAndQuotedText) {
  const std::string script = plot_script(two_points(256, 512));
  EXPECT_TRUE(contains(script, "256 1 0.5 2\n512 2 1.5 3\n"));
  EXPECT_TRUE(contains(script, "set xtics (256, 512)"));
  EXPECT_TRUE(contains(script, "set ylabel 'it''s seconds'"));
  EXPECT_TRUE(contains(script, "yerrorlines"));
  EXPECT_TRUE(contains(script, "set yrange [0:*]"));
  EXPECT_FALSE(contains(script, "logscale"));
  EXPECT_TRUE(contains(plot_script(two_points(16, 8192)), "set logscale x 2"));
}

TEST(ReportPlots, AnAxisThatHoldsJustTheValuesDoesNotGoBelowZero) {
  LinePlot plot = two_points(256, 512);
  plot.from_zero = false;
  EXPECT_TRUE(contains(plot_script(plot), "set yrange [0<*:*]"));
}

TEST(ReportText, FindingsBeginWithWhatWeakensThem) {
  Comparison comparison;
  comparison.environment["machine"] = {{"load_average", 3.0}, {"usable_cores", 2}};
  comparison.environment["interruption"] = "interrupted by signal 2 (Interrupt) after 1 of 8 jobs";
  const std::string disturbed = findings_list({comparison});
  EXPECT_TRUE(contains(disturbed, "after 1 of 8 jobs"));
  EXPECT_TRUE(contains(disturbed, "load average 3.0"));
  comparison.environment["machine"]["load_average"] = 0.3;
  comparison.environment.erase("interruption");
  EXPECT_EQ(findings_list({comparison}), "");
  comparison.environment["machine"]["load_average"] = "unknown";
  EXPECT_EQ(findings_list({comparison}), "");
}

TEST(ReportPlots, SeriesStandSideBySideSoThatTheirBarsDoNotHideEachOther) {
  LinePlot plot = two_points(100, 200);
  plot.series.push_back(plot.series[0]);
  const std::string script = plot_script(plot);
  EXPECT_FALSE(contains(script, "\n100 1 ")) << "both would be at the same place";
  EXPECT_EQ(count_of(script, " 1 0.5 2\n"), 2u);
}

TEST(ReportPlots, BarScriptMarksMissingValues) {
  BarPlot plot;
  plot.y_label = "%";
  plot.groups = {"256", "512"};
  plot.series = {{"tp", "#0072b2", {1.0, std::nullopt}}, {"sp", "#d55e00", {2.0, 3.0}}};
  const std::string script = plot_script(plot);
  EXPECT_TRUE(contains(script, "\"256\" 1 2\n\"512\" ? 3\n"));
  EXPECT_TRUE(contains(script, "set datafile missing '?'"));
}

TEST(ReportPlots, SvgHasIdsOfItsOwnAndNoPrologue) {
  const std::string svg = inline_svg(
      "<?xml version=\"1.0\"?>\n<svg viewBox=\"0 0 1 1\"><title>Gnuplot</title>"
      "<desc>Produced by</desc><g id=\"a\"><use xlink:href='#b' id='c'/></g></svg>\n",
      "plot", "time & space");
  EXPECT_EQ(
      svg,
      "<svg role=\"img\" aria-label=\"time &amp; space\" viewBox=\"0 0 1 1\"><g id=\"plot-a\">"
      "<use xlink:href='#plot-b' id='plot-c'/></g></svg>");
}

TEST(ReportPlots, GnuplotDrawsWhatTheScriptsSay) {
  const Gnuplot gnuplot;
  const std::string svg = gnuplot.svg(plot_script(two_points(256, 512)), "name", "label", 300, 200);
  EXPECT_EQ(svg.rfind("<svg", 0), 0u);
  EXPECT_TRUE(contains(svg, "viewBox=\"0 0 300 200\""));
  EXPECT_FALSE(contains(svg, "width=\"300\" height=\"200\" viewBox")) << "it must fit its place";
  EXPECT_TRUE(contains(svg, "it's seconds"));
}

TEST(ReportPlots, WhatGnuplotDoesNotUnderstandIsAnErrorWithItsMessage) {
  const Gnuplot gnuplot;
  try {
    static_cast<void>(gnuplot.svg("plot nonsense from nowhere\n", "wrong", "", 300, 200));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_TRUE(contains(error.what(), "'wrong'")) << error.what();
    EXPECT_TRUE(contains(error.what(), "nonsense") || contains(error.what(), "line"))
        << error.what();
  }
}

}  // namespace
}  // namespace portolan
