// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/dump_object.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/race.h"
#include "weakcache/weakref/cycles.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/finalizer.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/shared_ptr_interop.h"
#include "weakcache/weakref/weak_ref.h"

namespace app {

struct Image {
  std::string name;
};
std::string WeakcacheLabel(const Image& image) {
  if (image.name == "throw") throw std::runtime_error("label");
  return image.name;
}

struct Shape {
  virtual ~Shape() = default;
};
template <typename Unit>
struct Circle : Shape {};

struct Node {};
void WeakcacheTrace(const Node&, weakcache::Tracer&) {}

}  // namespace app

namespace weakcache {
namespace {

using app::Image;

std::string Text(const ObjectDump& dump) {
  return std::regex_replace(ToText(dump), std::regex("0x[0-9a-f]+"), "ADDRESS");
}

TEST(DumpObjectTest, CountsReferencesAndRegistrations) {
  const Ref<Image> image = MakeRef<Image>(Image{"cover"});
  const Ref<Image> other = image;
  const WeakRef<Image> weak = image;
  const ExpiryRegistration first = OnExpire(image, [] {});
  std::optional<ExpiryRegistration> second = OnExpire(image, [] {});
  auto finalizer = Finalize(image, [] {});
  ObjectDump dump = DumpObject(image);
  EXPECT_EQ(dump.type, "app::Image");
  EXPECT_EQ(dump.label, "cover");
  EXPECT_EQ(dump.address, image.get());
  EXPECT_TRUE(dump.owned);
  EXPECT_EQ(dump.strong_count, 2u);
  EXPECT_EQ(dump.weak_count, image.weak_count());
  EXPECT_EQ(dump.expiry_callbacks, 2u);
  EXPECT_EQ(dump.finalizers, 1u);
  EXPECT_EQ(dump.censuses, 0u);
  EXPECT_EQ(dump.shared_ptr_count, 0u);
  EXPECT_TRUE(dump.containers.empty());
  second.reset();
  finalizer.detach();
  dump = DumpObject(image);
  EXPECT_EQ(dump.expiry_callbacks, 1u);
  EXPECT_EQ(dump.finalizers, 0u);
  EXPECT_EQ(Text(dump),
            "app::Image \"cover\" at ADDRESS\n"
            "  strong references: 2\n"
            "  weak references: " +
                std::to_string(image.weak_count()) +
                "\n"
                "  callbacks of OnExpire: 1\n");
}

TEST(DumpObjectTest, AWeakReferenceCountsNoneOfItsOwn) {
  std::optional<Ref<Image>> image = MakeRef<Image>(Image{"cover"});
  const WeakRef<Image> weak = *image;
  const ObjectDump dump = DumpObject(weak);
  EXPECT_EQ(dump.strong_count, 1u);
  EXPECT_EQ(dump.weak_count, 1u);
  EXPECT_EQ(dump.label, "cover");
  EXPECT_EQ(dump.address, image->get());
  image.reset();
  EXPECT_EQ(Text(DumpObject(weak)),
            "app::Image, expired\n  strong references: 0\n  weak references: 1\n");
}

TEST(DumpObjectTest, ShowsWhatIsStillToBeTold) {
  Ref<Image> image = MakeRef<Image>();
  const WeakRef<Image> weak = image;
  std::vector<ObjectDump> dumps;
  // The newest is told first.
  const ExpiryRegistration last = OnExpire(image, [&] { dumps.push_back(DumpObject(weak)); });
  const ExpiryRegistration first = OnExpire(image, [&] { dumps.push_back(DumpObject(weak)); });
  image.reset();
  ASSERT_EQ(dumps.size(), 2u);
  EXPECT_EQ(dumps[0].expiry_callbacks, 1u);
  EXPECT_EQ(dumps[1].expiry_callbacks, 0u);
  EXPECT_EQ(dumps[1].strong_count, 0u);
  EXPECT_EQ(dumps[1].address, nullptr);
}

TEST(DumpObjectTest, NamesTheObjectsOwnType) {
  const Ref<app::Shape> shape = MakeRef<app::Circle<int>>();
  EXPECT_EQ(DumpObject(shape).type, "app::Circle<int>");
  EXPECT_EQ(DumpObject(Ref<const app::Shape>(shape)).type, "app::Circle<int>");
  EXPECT_EQ(DumpObject(Ref<void>(shape)).type, "void");
  const WeakRef<app::Shape> weak = Ref<app::Shape>(MakeRef<app::Circle<int>>());
  EXPECT_EQ(DumpObject(weak).type, "app::Shape") << "nothing is left to ask";
  const Ref<Image[]> images = MakeRef<Image[]>(3);
  EXPECT_TRUE(DumpObject(images).type.ends_with("[]")) << DumpObject(images).type;
  EXPECT_EQ(DumpObject(images).label, "");
}

TEST(DumpObjectTest, OfReferencesThatOwnNothing) {
  EXPECT_EQ(Text(DumpObject(Ref<Image>())), "app::Image, null\n");
  EXPECT_EQ(Text(DumpObject(WeakRef<Image>())), "app::Image, null\n");
  Image image{"static"};
  const Ref<Image> alias(Ref<int>(), &image);
  EXPECT_EQ(Text(DumpObject(alias)), "app::Image \"static\" at ADDRESS, without an owner\n");
  const Ref<Image> no_part(MakeRef<int>(1), static_cast<Image*>(nullptr));
  EXPECT_EQ(Text(DumpObject(no_part)),
            "app::Image\n  strong references: 1\n  weak references: 0\n");
}

TEST(DumpObjectTest, CountsTheSharedPtrsThatOwnTheObject) {
  const std::shared_ptr<Image> shared = std::make_shared<Image>();
  const Ref<Image> image = FromSharedPtr(shared);
  EXPECT_EQ(DumpObject(image).shared_ptr_count, 2u) << "one of them is that of the Refs";
  EXPECT_NE(Text(DumpObject(image)).find("std::shared_ptrs that own it: 2\n"), std::string::npos);
}

TEST(DumpObjectTest, CountsCensuses) {
  Census census;
  const Ref<app::Node> node = MakeRef<app::Node>();
  EXPECT_EQ(DumpObject(node).censuses, 1u);
  {
    Census another;
    another.Add(node);
    EXPECT_EQ(DumpObject(node).censuses, 2u);
  }
  EXPECT_EQ(DumpObject(node).censuses, 1u);
}

TEST(DumpObjectTest, AnExceptionOfTheLabelPassesThrough) {
  const Ref<Image> image = MakeRef<Image>(Image{"throw"});
  const WeakRef<Image> weak = image;
  EXPECT_THROW(static_cast<void>(DumpObject(image)), std::runtime_error);
  EXPECT_THROW(static_cast<void>(DumpObject(weak)), std::runtime_error);
  EXPECT_EQ(image.use_count(), 1u);
}

TEST(DumpObjectTest, RacesWithRegistrationsAndTheLastRelease) {
  Ref<app::Node> node;
  WeakRef<app::Node> weak;
  ExpiryRegistration stays;
  std::optional<Census> census;
  testing::Race(
      testing::RaceRounds(100000),
      [&](int) {
        census.emplace();
        node = MakeRef<app::Node>();
        weak = node;
        stays = OnExpire(node, [] {});
      },
      {[&] {
         const ObjectDump dump = DumpObject(weak);
         EXPECT_LE(dump.expiry_callbacks, 2u);
         EXPECT_LE(dump.finalizers, 1u);
         EXPECT_LE(dump.censuses, 1u);
         EXPECT_GE(dump.expiry_callbacks, dump.address != nullptr ? 1u : 0u);
       },
       [&] {
         const ExpiryRegistration goes = OnExpire(weak, [] {});
         if (const Ref<app::Node> strong = weak.lock()) Finalize(strong, [] {});
       },
       [&] { node.reset(); }, [&] { census.reset(); }},
      [&](int) { EXPECT_TRUE(weak.expired()); });
}

}  // namespace
}  // namespace weakcache
