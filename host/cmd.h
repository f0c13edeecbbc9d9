/* cmd.h - one function per command; main.c has the table.
 *
 * A command gets its parsed options, writes data to stdout and everything else to stderr, and
 * returns a status whose exit code main uses (train and others that end by a stop signal: see
 * *exit_code).
 *
 * THREADS: main thread.
 */
#ifndef CAIRN_HOST_CMD_H
#define CAIRN_HOST_CMD_H

#include "host/base/status.h"
#include "host/options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `exit_code`: preset to -1 (the status decides); a command may set another one
 * (--preempt-exit-code). */
typedef enum status (*command_function)(const struct options *options, int *exit_code,
                                        struct error *err);

enum status cmd_train(const struct options *options, int *exit_code, struct error *err);
enum status cmd_evaluate(const struct options *options, int *exit_code, struct error *err);
enum status cmd_predict(const struct options *options, int *exit_code, struct error *err);
enum status cmd_checkpoints(const struct options *options, int *exit_code, struct error *err);
enum status cmd_inspect(const struct options *options, int *exit_code, struct error *err);
enum status cmd_export(const struct options *options, int *exit_code, struct error *err);
enum status cmd_plot(const struct options *options, int *exit_code, struct error *err);
enum status cmd_vocabulary(const struct options *options, int *exit_code, struct error *err);
enum status cmd_tokenize(const struct options *options, int *exit_code, struct error *err);

/* In bench/. */
enum status cmd_bench_train(const struct options *options, int *exit_code, struct error *err);
enum status cmd_bench_ops(const struct options *options, int *exit_code, struct error *err);
enum status cmd_bench_data(const struct options *options, int *exit_code, struct error *err);
enum status cmd_bench_checkpoint(const struct options *options, int *exit_code, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
