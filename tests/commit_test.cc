// The proof of the commit protocol: the production writer and store on a disk in memory, on which
// every call can fail and every power cut can be played.
//
// A run of two processes is played: the first saves steps 10 and 20, the second resumes and saves
// 30 to 60, with a best file now and then, one step saved twice, and a retention of two. Judge
// looks at a disk and says which promises it breaks. Mutants of the protocol (a sync left out, a
// rename too early) show that the judge would notice.
#include <gtest/gtest.h>
#include <stdio.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/small_run.h"

namespace {

constexpr uint32_t KEEP = 2;
constexpr size_t NOW = SIZE_MAX;
const std::string DIRECTORY = "/run/";
const std::string BEST = DIRECTORY + "best.safetensors.zst";
const std::string STATE = DIRECTORY + "checkpoint";

// ---- what was done, and what the writer said about it ----

struct Plan {
    uint64_t step;
    bool best;
};

struct Save {
    uint64_t step;
    bool best;
    size_t begun, reported; // number of file calls made before writer_save, and before its result
    enum status status;
    size_t published;

    bool best_published() const { return best && published >= 1; }
    bool ring_published() const { return published == (best ? 2u : 1u); }
};

using Loaded = std::vector<std::string>; // problems of checkpoints that processes resumed from

// The step in a name of the ring, -1 for other names. Not the store's parser.
int64_t step_in(const std::string &name) {
    unsigned long long step = 0;
    int end = 0;
    bool is_ring = sscanf(name.c_str(), "model.ckpt-%llu.safetensors.zst%n", &step, &end) == 1 &&
                   static_cast<size_t>(end) == name.size();
    return is_ring ? static_cast<int64_t>(step) : -1;
}

int64_t step_of(const struct checkpoint &checkpoint) {
    const struct tensor_view *step =
        tensor_find(checkpoint.tensors, checkpoint.tensor_count, "state.step");
    return step == nullptr ? -1 : *static_cast<const int64_t *>(step->data);
}

void count_damage(void *context, const char *, const char *) {
    ++*static_cast<int *>(context);
}

struct Newest {
    enum status status = STATUS_OK;
    std::string message, problem;
    int64_t step = -1; // -1: there is none
    int damaged = 0;
};

Newest load_newest(const struct file_table *files) {
    Newest found;
    struct checkpoint *checkpoint = nullptr;
    struct error err = {};
    char path[FILE_PATH_CAPACITY];
    found.status =
        store_load_newest(files, "/run", count_damage, &found.damaged, &checkpoint, path, &err);
    found.message = err.message;
    if (found.status == STATUS_OK && checkpoint != nullptr) {
        found.step = step_of(*checkpoint);
        found.problem = state_problem(*checkpoint, static_cast<uint64_t>(found.step));
        if (path != DIRECTORY + ring_name(static_cast<uint64_t>(found.step))) {
            found.problem = std::string("it came from ") + path;
        }
        checkpoint_free(checkpoint);
    }
    return found;
}

// ---- the run ----

class Story {
  public:
    MemoryFiles disk;
    FaultyFiles files{disk.table()};
    std::vector<Save> saves;
    Loaded problems;

    // One process from start to end. It ends early when it cannot open or resume, as a trainer
    // would.
    void process(const std::vector<Plan> &plans) {
        SmallRun run(WRITER_BUSY_SKIP, FakeBackend::UNIFIED, KEEP, files.table());
        if (run.open_status() != STATUS_OK) {
            return;
        }
        Newest resumed = load_newest(files.table());
        if (resumed.status != STATUS_OK) {
            return;
        }
        if (resumed.step >= 0) {
            store_protect(run.store, static_cast<uint64_t>(resumed.step));
        }
        if (!resumed.problem.empty()) {
            problems.push_back(resumed.problem);
        }
        for (const Plan &plan : plans) {
            save(&run, plan);
        }
    }

    // The first process; all that it did is durable afterwards and no longer in the log.
    void begin() {
        process({{10, false}, {20, true}});
        disk.forget_log();
        for (Save &save : saves) {
            ASSERT_EQ(save.status, STATUS_OK);
            save.begun = save.reported = 0;
        }
        files.heal();
    }

    void resume() { process({{30, false}, {40, true}, {50, false}, {50, false}, {60, true}}); }

  private:
    void save(SmallRun *run, const Plan &plan) {
        run->train_to(plan.step);
        struct save_request request =
            plan.best ? run->best_and_ring_request() : run->ring_request();
        Save save = {plan.step, plan.best, disk.op_count(), 0, STATUS_OK, 0};
        run->save(request);
        std::vector<struct save_result> results = run->drain();
        ASSERT_EQ(results.size(), 1u);
        ASSERT_EQ(results[0].step, plan.step);
        save.reported = disk.op_count();
        save.status = results[0].status;
        save.published = results[0].targets_published;
        saves.push_back(save);
    }
};

// ---- the judge ----

class Judge {
  public:
    enum Restarts { WITH_RESTARTS, WITHOUT_RESTARTS };

    explicit Judge(const Story *story, Restarts restarts = WITH_RESTARTS)
        : story_(story), tries_restarts_(restarts == WITH_RESTARTS) {}

    // What a disk owes when power went after `ops` of the story's calls (NOW: it did not go).
    // Changes `left`: a restart is tried on it.
    void look_at(const std::string &what, MemoryFiles &left, size_t ops) {
        what_ = what;
        disks_++;
        find_debts(ops);
        read_ring(left);
        judge_newest(left);
        judge_best(left);
        judge_state_file(left);
        if (tries_restarts_ && restarted_.insert(left.contents()).second) {
            judge_restart(left);
        }
    }

    // Stops when promises of all these kinds were seen broken; with none given it never does.
    void look_at_every_crash(const MemoryFiles &disk, const std::set<std::string> &enough = {}) {
        for (size_t point : disk.crash_points()) {
            look_at_crashes_at(disk, point);
            bool seen = !enough.empty();
            for (const std::string &kind : enough) {
                seen = seen && times(kind) > 0;
            }
            if (seen) {
                return;
            }
        }
    }

    void look_at_crashes_at(const MemoryFiles &disk, size_t point) {
        disk.crashes_at(
            point, [&](const std::string &what, MemoryFiles &left) { look_at(what, left, point); });
    }

    size_t disks() const { return disks_; }
    size_t restarts() const { return restarted_.size(); }
    size_t times(const std::string &kind) const {
        auto found = broken_.find(kind);
        return found == broken_.end() ? 0 : found->second.first;
    }
    // Each kind of broken promise with how often and the first example; "" when all were kept.
    std::string report() const {
        std::string text;
        for (const auto &[kind, found] : broken_) {
            text +=
                kind + " " + std::to_string(found.first) + " times, first: " + found.second + "\n";
        }
        return text;
    }

  private:
    void broken(const std::string &kind, const std::string &detail) {
        auto &found = broken_.insert({kind, {0, ""}}).first->second;
        if (found.first++ == 0) {
            found.second = what_ + ": " + detail;
        }
    }

    void find_debts(size_t ops) {
        attempted_.clear();
        durable_.clear();
        best_durable_ = -1;
        for (const Save &save : story_->saves) {
            if (save.begun < ops) {
                attempted_.insert(static_cast<int64_t>(save.step));
            }
            if (save.reported <= ops && save.ring_published()) {
                durable_.insert(static_cast<int64_t>(save.step));
            }
            if (save.reported <= ops && save.best_published()) {
                best_durable_ = static_cast<int64_t>(save.step);
            }
        }
        if (ops == 0) { // the first process' saves were over before the log began
            for (int64_t step : durable_) {
                attempted_.insert(step);
            }
        }
    }

    // Which checkpoints are there, decoded one by one: not the store's way of finding them.
    void read_ring(const MemoryFiles &left) {
        ring_.clear();
        for (const std::string &name : left.names("/run")) {
            int64_t step = step_in(name);
            if (step >= 0) {
                std::string problem =
                    decode_problem(left.get(DIRECTORY + name), static_cast<uint64_t>(step));
                if (problem.empty()) {
                    ring_.insert(step);
                } else {
                    broken("damaged", name + ": " + problem);
                }
            }
        }
        size_t owed = std::min<size_t>(KEEP, durable_.size());
        if (ring_.size() < owed) {
            broken("lost", std::to_string(ring_.size()) + " good checkpoints where " +
                               std::to_string(owed) + " should be");
        }
    }

    void judge_newest(const MemoryFiles &left) {
        newest_ = load_newest(left.table());
        int64_t owed = durable_.empty() ? -1 : *durable_.rbegin();
        if (newest_.status != STATUS_OK) {
            broken("unusable", newest_.message);
        } else if (newest_.step < owed) {
            broken("lost", "step " + std::to_string(owed) + " was durable, found was " +
                               std::to_string(newest_.step));
        } else if (newest_.step >= 0 && attempted_.count(newest_.step) == 0) {
            broken("invented", "step " + std::to_string(newest_.step));
        }
        if (!newest_.problem.empty()) {
            broken("different", newest_.problem);
        }
        if (newest_.damaged != 0) {
            broken("damaged", std::to_string(newest_.damaged) + " passed over");
        }
    }

    // The best step that the newest checkpoint knows of: the latest one saved up to then. In the
    // same save the best file goes first; of an earlier save the trainer heard that it was
    // published.
    int64_t claimed_best() const {
        int64_t claimed = -1;
        for (const Save &save : story_->saves) {
            int64_t step = static_cast<int64_t>(save.step);
            bool known = step == newest_.step || save.best_published();
            if (save.best && step <= newest_.step && known) {
                claimed = step;
            }
        }
        return claimed;
    }

    void judge_best(const MemoryFiles &left) {
        std::optional<std::string> bytes = left.get(BEST);
        int64_t found = -1;
        for (const Save &save : story_->saves) {
            if (save.best && bytes && decode_problem(bytes, save.step).empty()) {
                found = static_cast<int64_t>(save.step);
            }
        }
        if (bytes && found < 0) {
            broken("best", "it is the state of no step that was best");
        }
        if (found < best_durable_) {
            broken("best", "that of step " + std::to_string(best_durable_) +
                               " was durable, found was " + std::to_string(found));
        }
        if (found < claimed_best()) {
            broken("best", "checkpoint " + std::to_string(newest_.step) + " claims that of step " +
                               std::to_string(claimed_best()) + ", found was " +
                               std::to_string(found));
        }
    }

    // A hint, but one that is whole, and that never points at nothing.
    void judge_state_file(const MemoryFiles &left) {
        std::optional<std::string> text = left.get(STATE);
        if (!text) {
            return;
        }
        struct store_state state;
        struct error err = {};
        if (store_state_parse(text->data(), text->size(), &state, &err) != STATUS_OK) {
            broken("state", err.message);
            return;
        }
        for (size_t i = 0; i < state.count; i++) {
            if (!left.exists(DIRECTORY + state.names[i])) {
                broken("state", std::string(state.names[i]) + " is not there");
            }
        }
        store_state_free(&state);
    }

    // Opening loses nothing, cleans up, and the next save works as ever.
    void judge_restart(MemoryFiles &left) {
        SmallRun run(WRITER_BUSY_SKIP, FakeBackend::UNIFIED, KEEP, left.table());
        if (run.open_status() != STATUS_OK) {
            broken("restart", run.open_message());
            return;
        }
        Newest again = load_newest(left.table());
        if (again.step != newest_.step || again.status != newest_.status) {
            broken("restart", "opening changed the newest checkpoint");
        }
        for (const std::string &name : left.names("/run")) {
            if (name.rfind(".cairn-tmp", 0) == 0) {
                broken("restart", name + " was not removed");
            }
        }
        uint64_t step = 1000;
        run.train_to(step);
        run.save(run.best_and_ring_request());
        std::vector<struct save_result> results = run.drain();
        if (results.size() != 1 || results[0].status != STATUS_OK) {
            broken("restart", results.empty() ? "no result" : results[0].message);
        } else if (load_newest(left.table()).step != static_cast<int64_t>(step) ||
                   !decode_problem(left.get(BEST), step).empty()) {
            broken("restart", "the next save is not there");
        }
    }

    const Story *story_;
    bool tries_restarts_;
    std::string what_;
    size_t disks_ = 0;
    std::map<std::string, std::pair<size_t, std::string>> broken_;
    std::set<std::map<std::string, std::string>> restarted_; // disks; each is tried once

    // of the disk being looked at
    std::set<int64_t> attempted_, durable_, ring_;
    int64_t best_durable_ = -1;
    Newest newest_;
};

// ---- the story itself is the one meant ----

TEST(Commit, TheStoryWithoutFaultsSavesEverythingAndKeepsTwo) {
    Story story;
    story.begin();
    story.resume();
    ASSERT_EQ(story.saves.size(), 7u);
    for (const Save &save : story.saves) {
        EXPECT_EQ(save.status, STATUS_OK);
        EXPECT_TRUE(save.ring_published());
        EXPECT_LT(save.begun, save.reported == 0 ? 1 : save.reported);
    }
    std::vector<std::string> expected = {".cairn-lock", "best.safetensors.zst", "checkpoint",
                                         ring_name(50), ring_name(60)};
    std::vector<std::string> found = story.disk.names("/run");
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, expected);
    Judge judge(&story);
    judge.look_at("the end", story.disk, NOW);
    EXPECT_EQ(judge.report(), "");
}

// ---- every file call fails ----

struct Fault {
    FaultyFiles::Repeat repeat;
    int error_number;
    bool after_effect;
    const char *name;
};

class CommitFaults : public ::testing::TestWithParam<Fault> {};
INSTANTIATE_TEST_SUITE_P(
    Kinds, CommitFaults,
    ::testing::Values(Fault{FaultyFiles::Once, EIO, false, "OnceEio"},
                      Fault{FaultyFiles::Once, EIO, true, "OnceEioAfterItHappened"},
                      Fault{FaultyFiles::ForEver, ENOSPC, false, "ForEverEnospc"}),
    [](const auto &fault) { return fault.param.name; });

// What is there now, and what is there when besides the power goes. Returns the number of disks.
size_t judge_after_faults(Story *story) {
    SCOPED_TRACE("last failure " + story->files.last_failure());
    EXPECT_EQ(story->problems, Loaded());
    EXPECT_EQ(story->files.uses_after_failed_fsync(), 0u);
    EXPECT_EQ(story->disk.open_descriptors(), 0u);
    EXPECT_EQ(story->disk.bad_descriptor_uses(), 0u);
    for (const Save &save : story->saves) {
        EXPECT_TRUE(save.status == STATUS_OK || save.status == STATUS_IO);
    }
    Judge judge(story);
    judge.look_at_crashes_at(story->disk, story->disk.op_count());
    judge.look_at("the disk as it is", story->disk, NOW);
    EXPECT_EQ(judge.report(), "");
    return judge.disks();
}

size_t count_failed(const std::vector<Save> &saves) {
    return static_cast<size_t>(std::count_if(
        saves.begin(), saves.end(), [](const Save &save) { return save.status != STATUS_OK; }));
}

// The Nth call of a process fails, for all N.
void fault_everywhere(bool fresh, const std::function<void(Story *)> &play) {
    const Fault &fault = CommitFaults::GetParam();
    size_t calls = 0, disks = 0, failed_saves = 0, unopened = 0;
    {
        Story story;
        if (!fresh) {
            story.begin();
        }
        play(&story);
        EXPECT_EQ(count_failed(story.saves), 0u);
        calls = story.files.calls();
    }
    ASSERT_GT(calls, 50u);
    for (size_t nth = 1; nth <= calls; nth++) {
        SCOPED_TRACE("call " + std::to_string(nth));
        Story story;
        if (!fresh) {
            story.begin();
        }
        const size_t before = story.saves.size();
        story.files.after_effect(fault.after_effect);
        story.files.fail(nth, fault.error_number, fault.repeat);
        play(&story);
        ASSERT_GE(story.files.failures(), 1u);
        failed_saves += count_failed(story.saves);
        unopened += story.saves.size() == before;
        disks += judge_after_faults(&story);
    }
    EXPECT_GT(failed_saves, calls / 4);
    EXPECT_GT(unopened, 0u); // a process that could not even begin is among them
    printf("%zu calls failed, %zu saves and %zu processes with them; %zu disks judged\n", calls,
           failed_saves, unopened, disks);
}

TEST_P(CommitFaults, AfterAFaultAtTheNthCallForAllNTheOldOrTheNewIsThere) {
    fault_everywhere(false, [](Story *story) { story->resume(); });
}

// From nothing: the directory is made, its name synced above it, and the first saves are made in
// it.
TEST_P(CommitFaults, AfterAFaultAtTheNthCallOfAFreshRunForAllNWhatWasSavedIsThere) {
    fault_everywhere(true, [](Story *story) {
        story->process({{0, false}, {10, true}, {20, false}});
    });
}

// A process that could not finish its beginning (a directory made, its name not synced) may not
// leave it unfinished for the next one: what that one saves is there after a power cut.
TEST(CommitRestart, WhatTheSecondProcessSavesIsThereWhateverFailedInTheFirst) {
    const std::vector<Plan> first = {{0, false}, {10, true}}, second = {{30, true}, {40, false}};
    size_t calls = 0;
    {
        Story story;
        story.process(first);
        calls = story.files.calls();
    }
    for (size_t nth = 1; nth <= calls; nth++) {
        for (bool after_effect : {false, true}) {
            Story story;
            story.files.after_effect(after_effect);
            story.files.fail(nth, EIO, FaultyFiles::Once);
            story.process(first);
            SCOPED_TRACE("call " + std::to_string(nth) + ", " + story.files.last_failure());
            ASSERT_EQ(story.files.failures(), 1u);
            story.files.heal();
            story.process(second);
            ASSERT_EQ(story.saves.back().step, 40u);
            EXPECT_EQ(story.saves.back().status, STATUS_OK);
            judge_after_faults(&story);
        }
    }
}

// ---- every crash ----

// Play the story, cut the power everywhere.
void crash_everywhere(Story *story, bool fresh, Judge *judge,
                      const std::set<std::string> &enough = {}) {
    if (fresh) {
        story->process({{10, true}, {20, false}, {30, true}});
    } else {
        story->resume();
    }
    judge->look_at_every_crash(story->disk, enough);
    printf("%zu crash points, %zu disks, %zu restarts tried\n", story->disk.crash_points().size(),
           judge->disks(), judge->restarts());
}

TEST(CommitCrash, AResumedRunIsWholeAtEveryCrash) {
    Story story;
    story.begin();
    Judge judge(&story);
    crash_everywhere(&story, false, &judge);
    EXPECT_EQ(judge.report(), "");
    EXPECT_GT(judge.disks(), 500u);
}

TEST(CommitCrash, AFreshRunIsWholeAtEveryCrash) {
    Story story;
    Judge judge(&story);
    crash_everywhere(&story, true, &judge);
    EXPECT_EQ(judge.report(), "");
    EXPECT_GT(judge.disks(), 200u);
}

// ---- mutants: the judge has teeth ----

// Leave out the syncs of the files, or those of the directory that follow their renames, whose
// final path contains `name`.
std::function<void(FaultyFiles *)> without_sync(const std::string &name, bool of_directory) {
    return [=](FaultyFiles *files) {
        auto renamed = std::make_shared<std::string>(); // the latest temporary that got its name
        auto matches = [=](const std::string &path) {
            return path.find(".cairn-tmp-" + name) != std::string::npos;
        };
        files->fail_where(
            [=](FileCall call, const std::string &path, bool) {
                if (call == FileCall::Rename) {
                    *renamed = path;
                }
                return false;
            },
            EIO);
        files->drop_fsync_where([=](FileCall, const std::string &path, bool is_directory) {
            return is_directory == of_directory && matches(is_directory ? *renamed : path);
        });
    };
}

struct Mutant {
    Story story;
    Judge judge{&story, Judge::WITHOUT_RESTARTS};

    // Must break promises of all the kinds in `expected`.
    Mutant(bool fresh, const std::set<std::string> &expected,
           const std::function<void(FaultyFiles *)> &mutate) {
        if (!fresh) {
            story.begin();
        }
        mutate(&story.files);
        crash_everywhere(&story, fresh, &judge, expected);
        EXPECT_GT(story.files.dropped(), 0u) << "the mutant changed nothing";
        for (const std::string &kind : expected) {
            EXPECT_GT(judge.times(kind), 0u) << "no crash showed it as " << kind;
        }
        printf("%s", judge.report().c_str());
    }
};

TEST(CommitMutants, WithoutTheSyncOfACheckpointItIsLost) {
    Mutant mutant(false, {"lost", "damaged"}, without_sync("model.ckpt-", false));
}

// The directory is synced again for the state file before a save is reported, so the checkpoint
// alone is not lost; but until then a state file that names it can be there without it.
TEST(CommitMutants, WithoutTheSyncOfTheDirectoryAfterACheckpointTheStateFilePointsAtNothing) {
    Mutant mutant(false, {"state"}, without_sync("model.ckpt-", true));
}

TEST(CommitMutants, WithoutTheSyncOfTheBestFileItIsLost) {
    Mutant mutant(false, {"best"}, without_sync("best.", false));
}

TEST(CommitMutants, WithoutTheSyncOfTheDirectoryAfterTheBestFileACheckpointClaimsWhatIsNotThere) {
    Mutant mutant(false, {"best"}, without_sync("best.", true));
}

// The state file is a hint: neither of its syncs can cost a checkpoint. What they buy is a state
// file that other tools can trust: whole, and naming only files that exist.
TEST(CommitMutants, WithoutTheSyncOfTheStateFileItIsTorn) {
    Mutant mutant(false, {"state"}, without_sync("checkpoint.", false));
}

TEST(CommitMutants, WithoutTheSyncOfTheDirectoryAfterTheStateFileItNamesDeletedCheckpoints) {
    Mutant mutant(false, {"state"}, without_sync("checkpoint.", true));
}

TEST(CommitMutants, WithoutAnySyncOfAFileCheckpointsAreLost) {
    Mutant mutant(false, {"lost", "damaged", "best", "state"},
                  [](FaultyFiles *files) { files->drop_file_fsync(true); });
}

TEST(CommitMutants, WithoutAnySyncOfADirectoryCheckpointsAreLost) {
    Mutant mutant(false, {"lost", "best", "state"},
                  [](FaultyFiles *files) { files->drop_directory_fsync(true); });
}

TEST(CommitMutants, WithoutTheSyncAboveTheModelDirectoryAllIsLost) {
    Mutant mutant(true, {"lost", "best"}, [](FaultyFiles *files) {
        files->drop_fsync_where([](FileCall, const std::string &path, bool is_directory) {
            return is_directory && path == "/";
        });
    });
}

// "lost": the step that is saved twice.
TEST(CommitMutants, WithTheRenameBeforeTheSyncTheOldFileIsGoneBeforeTheNewOneIsThere) {
    Mutant mutant(false, {"lost", "damaged", "best", "state"},
                  [](FaultyFiles *files) { files->fsync_after_rename(true); });
}

} // namespace
