#include "tests/support/bench_figures.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <set>
#include <sstream>

#include <jansson.h>

#include "tests/support/process.h"
#include "gtest/gtest.h"

Figures read_figures(const std::string &path) {
    Figures figures;
    std::unique_ptr<json_t, decltype(&json_decref)> root(json_load_file(path.c_str(), 0, nullptr),
                                                         json_decref);
    EXPECT_STREQ(json_string_value(json_object_get(root.get(), "benchmark")), "bench checkpoint");
    size_t i;
    json_t *figure;
    json_array_foreach(json_object_get(root.get(), "figures"), i, figure) {
        const std::string section = json_string_value(json_object_get(figure, "section"));
        const std::string name = json_string_value(json_object_get(figure, "name"));
        EXPECT_EQ(figures[section].count(name), 0u) << section << ": " << name;
        const json_t *median = json_object_get(figure, "median");
        if (contains(name, "p99") && json_is_null(median)) {
            figures[section][name] = NAN;
            continue;
        }
        EXPECT_TRUE(json_is_number(median)) << section << ": " << name;
        figures[section][name] = json_number_value(median);
        EXPECT_LE(json_number_value(json_object_get(figure, "min")), json_number_value(median));
        EXPECT_GE(json_number_value(json_object_get(figure, "max")), json_number_value(median));
    }
    return figures;
}

static std::vector<std::string> split(const std::string &line) {
    std::vector<std::string> fields(1);
    for (char c : line) {
        if (c == ',') {
            fields.emplace_back();
        } else {
            fields.back() += c;
        }
    }
    return fields;
}

Rows read_csv(const std::string &path) {
    std::istringstream lines(read_file(path));
    std::string line;
    std::getline(lines, line);
    const std::vector<std::string> names = split(line);
    EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
    Rows rows;
    while (std::getline(lines, line)) {
        const std::vector<std::string> fields = split(line);
        EXPECT_EQ(fields.size(), names.size()) << line;
        rows.emplace_back();
        for (size_t i = 0; i < fields.size() && i < names.size(); i++) {
            rows.back()[names[i]] = fields[i];
        }
    }
    return rows;
}

Rows of_kind(const Rows &rows, const std::string &kind) {
    Rows some;
    std::copy_if(rows.begin(), rows.end(), std::back_inserter(some),
                 [&](const auto &row) { return row.at("kind") == kind; });
    return some;
}

Rows cells_of(const Rows &rows) {
    return of_kind(rows, "repeat");
}

std::string read_fact(const std::string &path, const char *name) {
    std::unique_ptr<json_t, decltype(&json_decref)> root(json_load_file(path.c_str(), 0, nullptr),
                                                         json_decref);
    const char *text =
        json_string_value(json_object_get(json_object_get(root.get(), "facts"), name));
    return text == nullptr ? "" : text;
}
