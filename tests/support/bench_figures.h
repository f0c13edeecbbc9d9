// bench_figures.h - what `cairn bench checkpoint` wrote, as tests look at it: the JSON's figures and
// facts, the CSV's lines.
#ifndef CAIRN_TESTS_SUPPORT_BENCH_FIGURES_H
#define CAIRN_TESTS_SUPPORT_BENCH_FIGURES_H

#include <map>
#include <string>
#include <vector>

using Figures = std::map<std::string, std::map<std::string, double>>; // section, name: median

// Fails the test where a figure is there twice, or is none; a p99 may be null, which is NaN here.
Figures read_figures(const std::string &path);

// "" where there is none.
std::string read_fact(const std::string &path, const char *name);

using Rows = std::vector<std::map<std::string, std::string>>; // by the name of the column

// Fails the test where a line has more or fewer fields than the first, or two columns one name.
Rows read_csv(const std::string &path);
// The lines of one `kind`; "repeat": of the modes that train, repeat by repeat.
Rows of_kind(const Rows &rows, const std::string &kind);

#endif
