// The parts of `cairn plot` that are functions of numbers: curves in bounded memory, ticks of axes.
#include <algorithm>
#include <cmath>

#include "host/plot.h"
#include "gtest/gtest.h"

namespace {

TEST(PlotSeries, KeepsMeansAndExtremesInBoundedMemory) {
    struct error err = {};
    struct plot_series mean, max;
    ASSERT_EQ(plot_series_init(&mean, 64, PLOT_MERGE_MEAN, &err), STATUS_OK);
    ASSERT_EQ(plot_series_init(&max, 64, PLOT_MERGE_MAX, &err), STATUS_OK);
    constexpr int COUNT = 1 << 16; // a power of two: all points have the same weight
    for (int i = 0; i < COUNT; i++) {
        const double y = i == 40000 ? 1e6 : i % 1000;
        plot_series_add(&mean, i, i % 2 == 0 ? i : std::nan(""));
        plot_series_add(&max, i, y);
    }
    EXPECT_EQ(mean.count, 64u);
    for (size_t i = 0; i < mean.count; i++) {
        const double first = static_cast<double>(i) * COUNT / 64, last = first + COUNT / 64 - 1;
        EXPECT_DOUBLE_EQ(mean.points[i].x, (first + last) / 2);
        EXPECT_NEAR(mean.points[i].y, (first + last - 1) / 2, 1e-6); // of the even ones
    }
    const auto largest = std::max_element(
        max.points, max.points + max.count,
        [](const struct plot_point &a, const struct plot_point &b) { return a.y < b.y; });
    EXPECT_EQ(largest->x, 40000);
    EXPECT_EQ(largest->y, 1e6);
    plot_series_free(&mean);
    plot_series_free(&max);
}

TEST(PlotAxis, TicksAreRoundNumbersWithinTheAxis) {
    const struct {
        double low, high;
    } ranges[] = {{0, 10}, {0.23, 0.47}, {-3, 5}, {1e-9, 3e-9}, {1234567, 7654321}, {0.5, 0.5},
                  {0, 0},  {0.99, 1},    {0, 1},  {-1, -0.5},   {-2e-9, 1e-9},      {0, 3e-9}};
    for (const auto &range : ranges) {
        struct plot_axis axis;
        plot_axis_init(&axis, range.low, range.high, true, false, 6);
        EXPECT_LE(axis.low, range.low);
        EXPECT_GE(axis.high, range.high);
        ASSERT_GE(axis.tick_count, 2u) << range.low;
        ASSERT_LE(axis.tick_count, 6u) << range.low;
        const double step = axis.ticks[1] - axis.ticks[0];
        const double digits = step / std::pow(10, std::floor(std::log10(step) + 1e-9));
        EXPECT_LT(std::min({std::fabs(digits - 1), std::fabs(digits - 2), std::fabs(digits - 5),
                            std::fabs(digits - 10)}),
                  1e-6)
            << step;
        for (size_t i = 0; i < axis.tick_count; i++) {
            EXPECT_STRNE(axis.labels[i], "-0");
            EXPECT_GE(axis.ticks[i], axis.low - step * 1e-6);
            EXPECT_LE(axis.ticks[i], axis.high + step * 1e-6);
            EXPECT_NEAR(std::remainder(axis.ticks[i], step), 0, step * 1e-6);
        }
    }
}

} // namespace
