// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <stb/stb_image_write.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <latch>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "examples/image_cache/files.h"
#include "examples/image_cache/image.h"
#include "examples/image_cache/options.h"
#include "examples/image_cache/session.h"
#include "examples/image_cache/stores.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/weakref/ref.h"

namespace image_cache {
namespace {

namespace fs = std::filesystem;

using ::weakcache::MakeRef;
using ::weakcache::Ref;

std::string Contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const fs::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

// An empty directory for each test.
class ImageCacheTest : public ::testing::Test {
 protected:
  ImageCacheTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::string(test->test_suite_name()) + "." + test->name();
    std::replace(name.begin(), name.end(), '/', '_');
    directory_ = fs::path(::testing::TempDir()) / name;
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~ImageCacheTest() override { fs::remove_all(directory_); }

  std::string Path(const std::string& name) const { return (directory_ / name).string(); }

  // A PNG or JPEG file, as its name says.
  std::string MakeImage(const std::string& name, int channels = 3) const {
    const std::vector<unsigned char> pixels(kWidth * kHeight * channels, 200);
    const std::string path = Path(name);
    const bool written =
        path.ends_with("g") && path.find(".jp") != std::string::npos
            ? stbi_write_jpg(path.c_str(), kWidth, kHeight, channels, pixels.data(), 80) != 0
            : stbi_write_png(path.c_str(), kWidth, kHeight, channels, pixels.data(), 0) != 0;
    EXPECT_TRUE(written) << path;
    return path;
  }

  std::vector<std::string> MakeImages(int count) const {
    std::vector<std::string> paths;
    for (int i = 0; i < count; ++i) paths.push_back(MakeImage(std::to_string(i) + ".png"));
    return paths;
  }

  static constexpr int kWidth = 120;
  static constexpr int kHeight = 80;
  static constexpr int64_t kBytes = kWidth * kHeight * 3;

  fs::path directory_;
};

// ---- Decoding.

using DecodeTest = ImageCacheTest;

std::string ReasonAgainst(const std::string& path) {
  ImageLedger ledger;
  return std::string(DecodeImage(path, ledger).status().message());
}

TEST_F(DecodeTest, KeepsTheChannelsOfTheFile) {
  for (int channels = 1; channels <= 4; ++channels) {
    ImageLedger ledger;
    const auto image = DecodeImage(MakeImage("a.png", channels), ledger);
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_EQ((*image)->width(), kWidth);
    EXPECT_EQ((*image)->height(), kHeight);
    EXPECT_EQ((*image)->channels(), channels);
    EXPECT_EQ((*image)->pixels()[0], 200);
    EXPECT_EQ((*image)->pixels()[(*image)->bytes() - 1], 200);
  }
}

TEST_F(DecodeTest, ReadsJpeg) {
  ImageLedger ledger;
  const auto image = DecodeImage(MakeImage("a.jpg"), ledger);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->bytes(), kBytes);
  EXPECT_NEAR((*image)->pixels()[kBytes / 2], 200, 3);
}

TEST_F(DecodeTest, SaysWhatIsWrong) {
  EXPECT_EQ(ReasonAgainst(Path("none.png")), "No such file or directory");
  WriteFile(Path("empty.png"), "");
  EXPECT_EQ(ReasonAgainst(Path("empty.png")), "neither a PNG nor a JPEG file");
  WriteFile(Path("a.gif"), "GIF89a, as if");
  EXPECT_EQ(ReasonAgainst(Path("a.gif")), "neither a PNG nor a JPEG file");
}

TEST_F(DecodeTest, NoticesAFileThatWasCutOff) {
  for (const char* name : {"a.png", "a.jpg"}) {
    const std::string contents = Contents(MakeImage(name));
    for (const size_t size : {contents.size() / 2, contents.size() - 20}) {
      WriteFile(Path(name), contents.substr(0, size));
      EXPECT_NE(ReasonAgainst(Path(name)), "") << name << ", " << size << " bytes";
    }
  }
}

TEST_F(DecodeTest, PrintsTheReasonAgainstACorruptFileOnOneLine) {
  std::string contents = Contents(MakeImage("a.png"));
  const size_t data_chunk = contents.find("IDAT");
  ASSERT_NE(data_chunk, std::string::npos);
  contents.replace(data_chunk, 4, "\nA\033Z");
  WriteFile(Path("a.png"), contents);
  const std::string reason = ReasonAgainst(Path("a.png"));
  EXPECT_NE(reason, "");
  EXPECT_EQ(reason.find_first_of("\n\033"), std::string::npos) << reason;
}

TEST_F(DecodeTest, LedgerCountsWhatIsAlive) {
  const std::string path = MakeImage("a.png");
  ImageLedger ledger;
  {
    const auto first = DecodeImage(path, ledger);
    const auto second = DecodeImage(path, ledger);
    EXPECT_EQ(ledger.live_bytes(), 2 * kBytes);
  }
  const auto third = DecodeImage(path, ledger);
  EXPECT_EQ(ledger.live_bytes(), kBytes);
  EXPECT_EQ(ledger.peak_bytes(), 2 * kBytes);
  EXPECT_EQ(ledger.most_copies(), 2);
  EXPECT_EQ(ledger.decodes(), 3);
}

// ---- Finding files.

using FindImageFilesTest = ImageCacheTest;

TEST_F(FindImageFilesTest, TakesImagesBelowADirectoryInOrder) {
  fs::create_directories(Path("b/c"));
  fs::create_directory_symlink(directory_, Path("b/loop"));
  for (const char* name : {"z.PNG", "b/y.JpEg", "b/c/x.jpg", "a.png", "notes.txt", "b/png"}) {
    WriteFile(Path(name), "");
  }
  const FoundFiles found = FindImageFiles({directory_.string()});
  EXPECT_EQ(found.paths, (std::vector<std::string>{Path("a.png"), Path("b/c/x.jpg"),
                                                   Path("b/y.JpEg"), Path("z.PNG")}));
  EXPECT_TRUE(found.problems.empty());
}

TEST_F(FindImageFilesTest, FindsAFileOnce) {
  WriteFile(Path("a.png"), "");
  const FoundFiles found = FindImageFiles({Path("a.png"), directory_.string(), Path("./a.png")});
  EXPECT_EQ(found.paths, std::vector<std::string>{Path("a.png")});
}

TEST_F(FindImageFilesTest, LeavesNamedFilesToTheDecoder) {
  WriteFile(Path("a.gif"), "");
  const std::vector<std::string> names = {Path("a.gif"), Path("none.png")};
  const FoundFiles found = FindImageFiles(names);
  EXPECT_EQ(found.paths, names);
  EXPECT_TRUE(found.problems.empty());
}

TEST_F(FindImageFilesTest, ReportsWhatIsNoImageFile) {
  const FoundFiles found = FindImageFiles({directory_.string(), "/dev/null"});
  EXPECT_TRUE(found.paths.empty());
  EXPECT_EQ(found.problems,
            (std::vector<std::string>{directory_.string() + ": no PNG or JPEG files in it",
                                      "/dev/null: neither a file nor a directory"}));
}

// ---- Options.

TEST(ParseOptionsTest, ReadsFlagsAndPaths) {
  const auto options = ParseOptions({"a", "--viewers=2", "--zipf", "0.5", "b",
                                     "--seed=18446744073709551615", "--", "--lookups=0"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->session.viewers, 2);
  EXPECT_EQ(options->session.zipf, 0.5);
  EXPECT_EQ(options->session.seed, 18446744073709551615u);
  EXPECT_EQ(options->paths, (std::vector<std::string>{"a", "b", "--lookups=0"}));
}

TEST(ParseOptionsTest, RefusesWhatItDoesNotUnderstand) {
  for (const char* argument :
       {"--viewers=0", "--viewers=65", "--viewers=", "--viewers=2x", "--viewers=99999999999",
        "--viewers", "--viewer=2", "--viewersx=2", "--seed=-1", "--zipf=nan", "--zipf=inf",
        "--lookups=1.5", "--on_screen=0", "-v", "-", "--no-such-option", "--help=1", ""}) {
    EXPECT_FALSE(ParseOptions({argument}).ok()) << argument;
  }
}

TEST(ParseOptionsTest, NamesTheRange) {
  EXPECT_EQ(ParseOptions({"--viewers", "0"}).status().message(),
            "--viewers takes a whole number from 1 to 64, not '0'");
}

// ---- Stores.

// As the others are made: with a budget for everything.
template <typename Store>
class RoomyStore : public ImageStore {
 public:
  explicit RoomyStore(ImageDecoder decode) : store_(std::move(decode), 1'000'000'000) {}
  absl::StatusOr<Ref<Image>> Get(const std::string& path) override { return store_.Get(path); }

 private:
  Store store_;
};

template <typename Store>
class MapStoreTest : public ::testing::Test {};
using MapStores =
    ::testing::Types<StrongMapStore, WeakMapStore, RoomyStore<LruStore>, RoomyStore<CacheStore>>;
TYPED_TEST_SUITE(MapStoreTest, MapStores);

Ref<Image> EmptyImage(ImageLedger& ledger) { return MakeRef<Image>(0, 0, 3, nullptr, ledger); }

TYPED_TEST(MapStoreTest, DecodesOnceForAllWhoAskAtOnce) {
  constexpr int kThreads = 4;
  ImageLedger ledger;
  std::latch all_are_asking(kThreads);
  std::atomic<int> decodes = 0;
  TypeParam store([&](const std::string&) {
    ++decodes;
    all_are_asking.wait();
    return EmptyImage(ledger);
  });
  std::vector<Ref<Image>> images(kThreads);
  {
    std::vector<std::jthread> threads;
    for (Ref<Image>& image : images) {
      threads.emplace_back([&] {
        all_are_asking.count_down();
        image = *store.Get("a");
      });
    }
  }
  EXPECT_EQ(decodes, 1);
  for (const Ref<Image>& image : images) EXPECT_EQ(image, images[0]);
}

TYPED_TEST(MapStoreTest, AHitDoesNotWaitForADecode) {
  ImageLedger ledger;
  std::latch decoding(1);
  std::latch finish(1);
  TypeParam store([&](const std::string& path) {
    if (path == "slow") {
      decoding.count_down();
      finish.wait();
    }
    return EmptyImage(ledger);
  });
  const Ref<Image> quick = *store.Get("quick");
  std::jthread slow([&] { EXPECT_TRUE(store.Get("slow").ok()); });
  decoding.wait();
  EXPECT_EQ(*store.Get("quick"), quick);
  finish.count_down();
}

TYPED_TEST(MapStoreTest, TriesAgainAfterAFailure) {
  ImageLedger ledger;
  int decodes = 0;
  TypeParam store([&](const std::string&) -> absl::StatusOr<Ref<Image>> {
    if (++decodes == 1) return absl::DataLossError("bad");
    return EmptyImage(ledger);
  });
  EXPECT_EQ(store.Get("a").status().message(), "bad");
  EXPECT_TRUE(store.Get("a").ok());
}

TEST(WeakMapStoreTest, KeepsNothing) {
  ImageLedger ledger;
  int decodes = 0;
  WeakMapStore store([&](const std::string&) {
    ++decodes;
    return EmptyImage(ledger);
  });
  Ref<Image> image = *store.Get("a");
  EXPECT_EQ(*store.Get("a"), image);
  EXPECT_EQ(decodes, 1);
  image.reset();
  EXPECT_TRUE(store.Get("a").ok());
  EXPECT_EQ(decodes, 2);
}

TEST(CacheStoreTest, KeepsWhatFitsAndFindsTheRestWhileItIsShown) {
  ImageLedger ledger;
  int decodes = 0;
  const auto decode = [&](const std::string&) {
    ++decodes;
    return MakeRef<Image>(10, 10, 1, nullptr, ledger);
  };
  // Room for two images and their entries.
  CacheStore store(decode, /*budget_bytes=*/1000);
  std::vector<Ref<Image>> shown;
  for (const char* path : {"a", "b", "c", "d", "e"}) shown.push_back(*store.Get(path));
  EXPECT_EQ(decodes, 5);
  EXPECT_GT(store.stats().bytes_retained, 200u);
  EXPECT_LE(store.stats().bytes_retained, 1000u);
  // All are on the screen, so some are let go.
  for (const char* path : {"a", "b", "c", "d", "e"}) EXPECT_TRUE(store.Get(path).ok());
  EXPECT_EQ(decodes, 5);
  const uint64_t weak_hits = store.stats().weak_hits;
  EXPECT_GT(weak_hits, 0u);
  EXPECT_NE(store.Details().find("It found " + std::to_string(weak_hits) + " images"),
            std::string::npos)
      << store.Details();
}

TEST(LruStoreTest, EvictsWhatWasNotUsedLongest) {
  ImageLedger ledger;
  std::map<std::string, int> decodes;
  const auto decode = [&](const std::string& path) {
    ++decodes[path];
    return MakeRef<Image>(10, 10, 1, nullptr, ledger);
  };
  LruStore store(decode, /*budget_bytes=*/250);
  for (const char* path : {"a", "b", "a", "c", "a", "b"}) EXPECT_TRUE(store.Get(path).ok());
  EXPECT_EQ(decodes, (std::map<std::string, int>{{"a", 1}, {"b", 2}, {"c", 1}}));
  EXPECT_EQ(ledger.live_bytes(), 200);
}

TEST(LruStoreTest, DoesNotFindWhatItEvictedThoughItIsShown) {
  ImageLedger ledger;
  LruStore store([&](const std::string&) { return MakeRef<Image>(10, 10, 1, nullptr, ledger); },
                 /*budget_bytes=*/100);
  const Ref<Image> shown = *store.Get("a");
  EXPECT_TRUE(store.Get("b").ok());
  EXPECT_NE(*store.Get("a"), shown);
  EXPECT_EQ(ledger.live_bytes(), 200);
}

// ---- The session, and what the example claims.

using SessionTest = ImageCacheTest;

template <typename Store, typename... Arguments>
SessionResult Replay(const std::vector<std::string>& paths, const SessionOptions& options,
                     Arguments... arguments) {
  ImageLedger ledger;
  Store store([&ledger](const std::string& path) { return DecodeImage(path, ledger); },
              arguments...);
  std::atomic<int64_t> steps = 0;
  const SessionResult result = ReplaySession(paths, options, store, ledger, [&] { ++steps; });
  EXPECT_EQ(steps, result.lookups);
  if (options.seconds == 0) {
    EXPECT_EQ(result.lookups, int64_t{options.viewers} * options.lookups);
  }
  EXPECT_EQ(result.hits + result.decodes, result.lookups);
  EXPECT_GE(result.peak_bytes, result.final_bytes);
  EXPECT_GT(result.peak_resident_bytes, 0);
  return result;
}

void CheckClaims(const std::vector<std::string>& paths, const SessionOptions& options) {
  const SessionResult none = Replay<NoStore>(paths, options);
  EXPECT_EQ(none.decodes, none.lookups);
  EXPECT_EQ(none.final_bytes, 0);

  const SessionResult strong = Replay<StrongMapStore>(paths, options);
  EXPECT_LE(strong.decodes, static_cast<int64_t>(paths.size()));
  EXPECT_EQ(strong.most_copies, 1);
  EXPECT_EQ(strong.final_bytes, strong.peak_bytes);

  const SessionResult weak = Replay<WeakMapStore>(paths, options);
  EXPECT_LT(weak.decodes, none.decodes);
  EXPECT_GE(weak.decodes, strong.decodes);
  EXPECT_EQ(weak.most_copies, 1);
  EXPECT_EQ(weak.final_bytes, 0);

  const uint64_t half = static_cast<uint64_t>(strong.peak_bytes) / 2;
  const SessionResult cache = Replay<CacheStore>(paths, options, half);
  EXPECT_LT(cache.decodes, none.decodes);
  EXPECT_GE(cache.decodes, strong.decodes);
  EXPECT_EQ(cache.most_copies, 1);
  EXPECT_LE(cache.final_bytes, static_cast<int64_t>(half));

  const SessionResult lru = Replay<LruStore>(paths, options, half);
  EXPECT_GE(lru.decodes, strong.decodes);
  EXPECT_LE(lru.final_bytes, static_cast<int64_t>(half));
}

TEST_F(SessionTest, ClaimsHoldForSmallImages) {
  const std::vector<std::string> paths = MakeImages(12);
  for (const uint64_t seed : {1, 2, 3}) {
    CheckClaims(paths, {.viewers = 4, .lookups = 100, .on_screen = 2, .seed = seed, .zipf = 0.8});
  }
}

TEST_F(SessionTest, ClaimsHoldForLargeImages) {
  CheckClaims(
      {"examples/image_cache/images/moon.png", "examples/image_cache/images/mandelbrot.png"},
      {.viewers = 2, .lookups = 4, .on_screen = 1});
}

TEST_F(SessionTest, AStrongMapKeepsEverything) {
  const SessionResult result =
      Replay<StrongMapStore>(MakeImages(5), {.viewers = 2, .lookups = 200, .zipf = 0.0});
  EXPECT_EQ(result.decodes, 5);
  EXPECT_EQ(result.final_bytes, 5 * kBytes);
}

TEST_F(SessionTest, ViewersLookForSomeTime) {
  const SessionResult result = Replay<CacheStore>(
      MakeImages(3), {.viewers = 2, .lookups = 1, .seconds = 1}, uint64_t{1'000'000});
  EXPECT_GT(result.lookups, 2);
  EXPECT_GE(result.time, std::chrono::seconds(1));
  EXPECT_EQ(result.decodes, 3);
}

TEST_F(SessionTest, WithoutACacheOneImageIsThereSeveralTimes) {
  const SessionResult result =
      Replay<NoStore>(MakeImages(1), {.viewers = 1, .lookups = 10, .on_screen = 3});
  EXPECT_EQ(result.most_copies, 4);  // three on the screen, and the one that comes next
}

// Finds nothing, and counts what it was asked for.
class CountingStore final : public ImageStore {
 public:
  absl::StatusOr<Ref<Image>> Get(const std::string& path) override {
    std::lock_guard<std::mutex> lock(mutex_);
    ++requests_[path];
    return absl::NotFoundError(path);
  }
  const std::map<std::string, int>& requests() const { return requests_; }

 private:
  std::mutex mutex_;
  std::map<std::string, int> requests_;
};

std::map<std::string, int> Requests(const SessionOptions& options) {
  ImageLedger ledger;
  CountingStore store;
  ReplaySession({"a", "b", "c"}, options, store, ledger, [] {});
  return store.requests();
}

TEST_F(SessionTest, SeedDecidesWhatIsLookedAt) {
  const SessionOptions options = {.viewers = 3, .lookups = 200, .seed = 1};
  EXPECT_EQ(Requests(options), Requests(options));
  SessionOptions other_seed = options;
  other_seed.seed = uint64_t{1} << 32;
  EXPECT_NE(Requests(options), Requests(other_seed));
}

TEST_F(SessionTest, LooksAtTheSameInTurns) {
  SessionOptions options = {.viewers = 3, .lookups = 200};
  const std::map<std::string, int> requests = Requests(options);
  options.in_turns = 1;
  EXPECT_EQ(Requests(options), requests);
}

TEST_F(SessionTest, PopularityFollowsZipf) {
  std::map<std::string, int> requests = Requests({.viewers = 2, .lookups = 5500, .zipf = 1.0});
  EXPECT_NEAR(requests["a"], 6000, 300);  // 1 : 1/2 : 1/3
  EXPECT_NEAR(requests["b"], 3000, 300);
  EXPECT_NEAR(requests["c"], 2000, 300);
}

// ---- The program.

class ProgramTest : public ImageCacheTest {
 protected:
  struct Outcome {
    int exit_code;
    std::string output;
    std::string errors;
  };

  // `prefix` goes before the program: variables of its environment.
  Outcome Run(const std::string& arguments, const std::string& prefix = "") const {
    const std::string command = "env -u BUILD_WORKING_DIRECTORY " + prefix +
                                " examples/image_cache/image_cache " + arguments + " >'" +
                                Path("output") + "' 2>'" + Path("errors") + "'";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Contents(Path("output")),
            Contents(Path("errors"))};
  }

  static std::string Quoted(const std::string& path) { return " '" + path + "'"; }
};

TEST_F(ProgramTest, ShowsItsOwnImagesByDefault) {
  const Outcome outcome = Run("--viewers=2 --lookups=1");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.errors, "");  // no progress bar where there is no terminal
  for (const char* store : {"no cache", "strong map", "weak map", "LRU", "large object cache"}) {
    EXPECT_NE(outcome.output.find(store), std::string::npos) << outcome.output;
  }
  EXPECT_NE(outcome.output.find("Images: 7, 153.3 MB"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("The images may take 128.0 MB"), std::string::npos)
      << outcome.output;
}

TEST_F(ProgramTest, PrintsCsvThatIsTheSameEachTimeInTurns) {
  const std::string arguments =
      Quoted(MakeImage("a.png")) + Quoted(MakeImage("b.png")) + " --csv=1 --in_turns=1";
  const Outcome outcome = Run(arguments + " --viewers=2 --lookups=10");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.errors;
  EXPECT_TRUE(
      outcome.output.starts_with("store,lookups,decodes,live_bytes,peak_bytes\n"
                                 "no cache,1,1,28800,28800\n"))
      << outcome.output;
  // Five stores with a line for each look-up and one for the end.
  EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1 + 5 * 21);
  EXPECT_NE(outcome.output.find("\nstrong map,20,2,57600,57600\n"), std::string::npos);
  EXPECT_NE(outcome.output.find("\nweak map,20,2,0,57600\n"), std::string::npos);
  EXPECT_EQ(Run(arguments + " --viewers=2 --lookups=10").output, outcome.output);
}

TEST_F(ProgramTest, ReportsBadFilesAndGoesOn) {
  const std::string good = MakeImage("good.png");
  WriteFile(Path("bad.gif"), "GIF89a");
  const std::string cut_off = Contents(MakeImage("cut_off.png"));
  WriteFile(Path("cut_off.png"), cut_off.substr(0, cut_off.size() / 2));
  const Outcome outcome = Run(Quoted(Path("none.png")) + Quoted(Path("bad.gif")) +
                              Quoted(Path("cut_off.png")) + Quoted(good));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.errors,
            "image_cache: " + Path("none.png") + ": No such file or directory\n" +  //
                "image_cache: " + Path("bad.gif") + ": neither a PNG nor a JPEG file\n" +
                "image_cache: " + Path("cut_off.png") + ": Corrupt PNG\n");
  EXPECT_NE(outcome.output.find("Images: 1,"), std::string::npos) << outcome.output;
}

TEST_F(ProgramTest, ReadsRelativePathsWhereTheUserTypedThem) {
  MakeImage("a.png");
  const Outcome outcome =
      Run("a.png --lookups=2", "BUILD_WORKING_DIRECTORY='" + directory_.string() + "'");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.errors;
}

TEST_F(ProgramTest, ExitCodeTellsThatNothingCouldBeDecoded) {
  fs::create_directory(Path("empty"));
  const Outcome outcome = Run(Quoted(Path("empty")) + Quoted(Path("none.png")));
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.output, "");
  EXPECT_EQ(outcome.errors, "image_cache: " + Path("empty") + ": no PNG or JPEG files in it\n" +
                                "image_cache: " + Path("none.png") +
                                ": No such file or directory\n" +
                                "image_cache: no image could be decoded\n");
}

TEST_F(ProgramTest, ExitCodeTellsBadUsage) {
  for (const char* arguments : {"--viewers=0", "--no-such-option", "--seed"}) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_EQ(outcome.output, "");
    EXPECT_EQ(std::count(outcome.errors.begin(), outcome.errors.end(), '\n'), 1);
  }
}

TEST_F(ProgramTest, HelpGoesToStandardOutput) {
  const Outcome outcome = Run("--help");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.errors, "");
  EXPECT_NE(outcome.output.find("--on_screen"), std::string::npos);
}

}  // namespace
}  // namespace image_cache
