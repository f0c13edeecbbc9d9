/* `cairn plot --model-dir DIR [DIR...]`: the drawing in characters goes to stdout, the picture to a
 * file whose path is said on stderr. */
#include <stdio.h>
#include <string.h>

#include "host/base/text.h"
#include "host/cmd.h"
#include "host/output.h"
#include "host/plot.h"

struct plot {
    const struct options *options;
    struct plot_choice choice;
    struct plot_run runs[PLOT_RUNS_MAX];
    size_t run_count;
    struct plot_figure figure;
};

/* ---- characters ------------------------------------------------------------------------------ */

static enum status append_drawing(struct plot *plot, struct text *out, struct error *err) {
    const struct plot_style style = {.columns = terminal_columns(stdout),
                                     .rows = terminal_rows(stdout),
                                     .plain = plot->options->ascii || !terminal_is_utf8(),
                                     .colours = terminal_colours(stdout)};
    plot_print_title(&plot->figure, &style, out);
    TRY(plot_print(&plot->figure, &style, out, err));
    if (plot->options->plot_saves) {
        plot_print_saves_table(&plot->figure, plot->runs, &style, out);
    } else {
        plot_print_curves_table(&plot->figure, plot->runs, &plot->choice, &style, out);
    }
    CHECK(!out->failed, err, STATUS_MEMORY, "out of memory for a drawing");
    return STATUS_OK;
}

static enum status print_drawing(struct plot *plot, struct error *err) {
    struct text text = {0};
    bool closed = false;
    enum status status = append_drawing(plot, &text, err);
    if (status == STATUS_OK) {
        status = output_write(text.bytes, text.size, &closed, err);
    }
    if (status == STATUS_OK) {
        status = output_flush(&closed, err);
    }
    text_free(&text);
    return status;
}

/* ---- the picture ----------------------------------------------------------------------------- */

static enum status draw_file(const struct plot *plot, const char *path, bool *drawn,
                             struct error *err) {
    unsigned width, height;
    enum gnuplot_format format;
    struct text script = {0};
    CHECK(plot_parse_size(plot->options->picture_size, &width, &height) &&
              gnuplot_format_of(path, &format),
          err, STATUS_INTERNAL, "the options of the picture were not checked");
    plot_script(&plot->figure, format, width, height, &script);
    enum status status = gnuplot_draw(&script, path, drawn, err);
    text_free(&script);
    return status;
}

/* Where nothing was asked for, a missing gnuplot is no failure: there is the other drawing. */
static enum status draw_picture(const struct plot *plot, struct error *err) {
    const char *asked = plot->options->picture;
    char path[FILE_PATH_CAPACITY], shown[512];
    bool drawn;
    if (strcmp(asked, "none") == 0) {
        return STATUS_OK;
    }
    if (asked[0] == '\0') {
        CHECK(file_join_path(path, sizeof path, plot->runs[0].directory,
                             plot->options->plot_saves ? "saves.png" : "curves.png"),
              err, STATUS_OUTPUT, "the path of the picture is too long");
    } else {
        CHECK(strlen(asked) < sizeof path, err, STATUS_OUTPUT,
              "the path of the picture is too long");
        memcpy(path, asked, strlen(asked) + 1);
    }
    enum status status = draw_file(plot, path, &drawn, err);
    if (status == STATUS_OUTPUT) {
        error_prefix(err, status,
                     "no picture (--output FILE puts it elsewhere, none leaves it out)");
    }
    TRY(status);
    CHECK(drawn || asked[0] == '\0', err, STATUS_OUTPUT, "no picture: %s", GNUPLOT_MISSING);
    text_escape(path, strlen(path), shown, sizeof shown);
    fprintf(stderr, drawn ? "Picture: %s\n" : "No picture: %s\n", drawn ? shown : GNUPLOT_MISSING);
    return STATUS_OK;
}

/* ---- the command ----------------------------------------------------------------------------- */

static enum status read_runs(struct plot *plot, struct error *err) {
    const struct options *options = plot->options;
    const char *directories[PLOT_RUNS_MAX + 1];
    size_t count = 0;
    if (options->model_dir[0] != '\0') {
        directories[count++] = options->model_dir;
    }
    for (size_t i = 0; i < options->directory_count; i++) {
        directories[count++] = options->directories[i];
    }
    CHECK(count <= PLOT_RUNS_MAX, err, STATUS_USAGE, "%zu runs: at most %d can be told apart",
          count, PLOT_RUNS_MAX);
    for (size_t i = 0; i < count; i++) {
        TRY(plot_run_read(&file_posix, directories[i], &plot->runs[i], err));
        plot->run_count++;
    }
    return STATUS_OK;
}

/* A metric that was asked for by name must have been measured. */
static enum status choose_metric(struct plot *plot, struct error *err) {
    struct plot_choice *choice = &plot->choice;
    const char *name = plot->options->plot_monitor;
    choice->has_metric = name[0] != '\0' && metric_parse(name, &choice->metric);
    if (!choice->has_metric || !metric_needs_validation(choice->metric)) {
        return STATUS_OK;
    }
    bool any = false;
    for (size_t i = 0; i < plot->run_count; i++) {
        any = any || plot->runs[i].has_validation || plot->runs[i].epoch_count == 0;
    }
    CHECK(any, err, STATUS_USAGE,
          "--monitor %s: there was no validation; loss and accuracy are known", name);
    return STATUS_OK;
}

static enum status make_figure(struct plot *plot, struct error *err) {
    TRY(choose_metric(plot, err));
    return plot->options->plot_saves
               ? plot_figure_saves(plot->runs, plot->run_count, &plot->figure, err)
               : plot_figure_curves(plot->runs, plot->run_count, &plot->choice, &plot->figure, err);
}

enum status cmd_plot(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    struct plot plot = {.options = options};
    enum status status = read_runs(&plot, err);
    if (status == STATUS_OK) {
        status = make_figure(&plot, err);
    }
    if (status == STATUS_OK) {
        status = print_drawing(&plot, err);
        if (status == STATUS_OK) {
            status = draw_picture(&plot, err);
        }
        plot_figure_free(&plot.figure);
    }
    for (size_t i = 0; i < plot.run_count; i++) {
        plot_run_free(&plot.runs[i]);
    }
    return status;
}
