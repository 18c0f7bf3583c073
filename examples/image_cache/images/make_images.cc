// SPDX-License-Identifier: Apache-2.0
// Draws the example's images: `bazel run //examples/image_cache/images:make_images -- DIRECTORY`.
//
// They are what a cache of large objects is for: 100 to 400 KB as files, 8 to 60 MB once decoded.
// Flat colors and straight runs make the files that small, so every picture is a handful of flat
// shapes. Nothing here is random: the same program writes the same files.

#include <stb/stb_image_write.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

namespace {

constexpr double kPi = 3.14159265358979323846;

// Components from 0 to 255. A gray picture stores `red` only, an opaque one leaves `alpha` out.
struct Color {
  int red = 0;
  int green = 0;
  int blue = 0;
  int alpha = 255;
};

// A picture is a function of the place: `x` from 0 to width / height, `y` from 0 to 1 downwards.
using Painter = Color (*)(double x, double y);

// In `steps` steps rather than continuously: bands of one color are what compresses.
Color Blend(Color from, Color to, double share, int steps) {
  share = std::floor(share * steps) / steps;
  const auto mix = [share](int a, int b) { return static_cast<int>(a + (b - a) * share); };
  return {mix(from.red, to.red), mix(from.green, to.green), mix(from.blue, to.blue),
          mix(from.alpha, to.alpha)};
}

bool InCircle(double x, double y, double center_x, double center_y, double radius) {
  return std::hypot(x - center_x, y - center_y) < radius;
}

Color Balloons(double x, double y) {
  constexpr struct {
    double x, y, radius;
    Color color;
  } kBalloons[] = {
      {0.30, 0.34, 0.17, {214, 69, 65}},
      {0.78, 0.25, 0.12, {244, 179, 80}},
      {1.08, 0.52, 0.15, {38, 166, 154}},
      {0.62, 0.62, 0.10, {142, 68, 173}},
  };
  for (const auto& balloon : kBalloons) {
    if (InCircle(x, y, balloon.x, balloon.y, balloon.radius)) {
      const double side = std::floor((x - balloon.x) / balloon.radius * 3.5 + 0.5);
      return Blend(balloon.color, {255, 255, 255}, std::fabs(side) == 1.0 ? 0.5 : 0.0, 4);
    }
    const double below = y - balloon.y - balloon.radius;
    if (std::fabs(x - balloon.x) < 0.18 * balloon.radius && below > 0.035 && below < 0.065) {
      return {121, 85, 61};
    }
  }
  return Blend({92, 172, 226}, {214, 234, 248}, y, 24);
}

Color Canyon(double x, double y) {
  if (InCircle(x, y, 1.0, 0.2, 0.1)) return {255, 245, 214};
  constexpr int kLayers = 6;
  for (int layer = kLayers; layer > 0; --layer) {
    const double edge = 0.22 + 0.12 * layer + 0.035 * std::sin(x * (3.0 + layer) + 2.0 * layer) +
                        0.012 * std::sin(x * 17.0 + layer);
    if (y > edge) return Blend({240, 150, 90}, {84, 26, 48}, layer / double{kLayers}, kLayers);
  }
  return Blend({250, 190, 120}, {253, 227, 167}, y * 2.0, 12);
}

Color Eclipse(double x, double y) {
  const double distance = std::hypot(x - 0.5, y - 0.5);
  if (distance < 0.22) return {18, 18, 30};
  if (distance > 0.48) return {0, 0, 0, 0};
  return Blend({255, 236, 170, 255}, {160, 50, 90, 40}, (distance - 0.22) / 0.26, 9);
}

Color Mandelbrot(double x, double y) {
  constexpr double kCell = 1.0 / 160;
  const double real = std::floor(x / kCell) * kCell * 2.6 - 2.0;
  const double imaginary = (std::floor(y / kCell) + 0.5) * kCell * 2.6 - 1.3;
  double a = 0.0;
  double b = 0.0;
  int step = 0;
  constexpr int kSteps = 14;
  for (; step < kSteps && a * a + b * b < 4.0; ++step) {
    const double next = a * a - b * b + real;
    b = 2.0 * a * b + imaginary;
    a = next;
  }
  if (step == kSteps) return {16, 16, 32};
  return Blend({20, 40, 110}, {250, 220, 130}, step / double{kSteps}, kSteps);
}

Color Moon(double x, double y) {
  constexpr struct {
    double x, y, radius;
    int gray;
  } kCraters[] = {
      {0.40, 0.36, 0.09, 168}, {0.62, 0.55, 0.06, 150}, {0.42, 0.66, 0.05, 160},
      {0.64, 0.31, 0.04, 172}, {0.55, 0.74, 0.03, 150}, {0.28, 0.52, 0.03, 165},
  };
  if (!InCircle(x, y, 0.5, 0.5, 0.38)) return {12};
  for (const auto& crater : kCraters) {
    if (InCircle(x, y, crater.x, crater.y, crater.radius)) return {crater.gray};
  }
  return {InCircle(x, y, 0.45, 0.45, 0.38) ? 214 : 186};
}

Color Mountains(double x, double y) {
  const auto ridge = [x](double period, double shift) {
    return std::fabs(std::fmod(x / period + shift, 2.0) - 1.0);  // a triangle wave, 0 to 1
  };
  if (y > 0.86) return {46, 92, 76};
  if (y > 0.48 + 0.40 * ridge(0.35, 0.2)) return {58, 80, 107};
  const double far_ridge = 0.28 + 0.45 * ridge(0.5, 1.1);
  if (y > far_ridge)
    return y < far_ridge + 0.07 && y < 0.42 ? Color{244, 246, 247} : Color{120, 144, 168};
  return Blend({133, 193, 233}, {253, 235, 208}, y * 1.4, 16);
}

Color Sunrise(double x, double y) {
  constexpr double kHorizon = 0.64;
  const double distance = std::hypot(x - 0.625, y - kHorizon);
  if (y < kHorizon) {
    if (distance < 0.2) return {255, 236, 140};
    const double angle = std::atan2(kHorizon - y, x - 0.625) / kPi * 18.0;
    const int ray = static_cast<int>(angle) % 2;
    return Blend({255, 183, 94}, {94, 84, 142}, distance / 0.9 + 0.08 * ray, 8);
  }
  const double glitter = 0.2 * (1.0 - (y - kHorizon)) * (static_cast<int>(y * 40.0) % 2);
  if (std::fabs(x - 0.625) < glitter) return {250, 200, 120};
  return Blend({72, 86, 150}, {22, 30, 70}, (y - kHorizon) / (1.0 - kHorizon), 8);
}

struct Picture {
  const char* file;
  int width;
  int height;
  int channels;  // 1: gray, 3: RGB, 4: RGB and transparency
  Painter paint;
};

constexpr Picture kPictures[] = {
    {"balloons.jpg", 2600, 2000, 3, Balloons},      // 15.6 MB decoded
    {"canyon.png", 2400, 1800, 3, Canyon},          // 13.0 MB
    {"eclipse.png", 2200, 2200, 4, Eclipse},        // 19.4 MB
    {"mandelbrot.png", 1920, 1920, 3, Mandelbrot},  // 11.1 MB
    {"moon.png", 2900, 2900, 1, Moon},              // 8.4 MB
    {"mountains.jpg", 3600, 2400, 3, Mountains},    // 25.9 MB
    {"sunrise.jpg", 5000, 4000, 3, Sunrise},        // 60.0 MB
};

std::vector<uint8_t> Paint(const Picture& picture) {
  std::vector<uint8_t> pixels;
  pixels.reserve(static_cast<size_t>(picture.width) * picture.height * picture.channels);
  for (int row = 0; row < picture.height; ++row) {
    for (int column = 0; column < picture.width; ++column) {
      const Color color =
          picture.paint(double(column) / picture.height, double(row) / picture.height);
      const int components[] = {color.red, color.green, color.blue, color.alpha};
      for (int channel = 0; channel < picture.channels; ++channel) {
        pixels.push_back(static_cast<uint8_t>(components[channel]));
      }
    }
  }
  return pixels;
}

bool Write(const Picture& picture, const std::filesystem::path& path) {
  const std::vector<uint8_t> pixels = Paint(picture);
  if (path.extension() == ".png") {
    return stbi_write_png(path.c_str(), picture.width, picture.height, picture.channels,
                          pixels.data(), picture.width * picture.channels) != 0;
  }
  constexpr int kQuality = 60;
  return stbi_write_jpg(path.c_str(), picture.width, picture.height, picture.channels,
                        pixels.data(), kQuality) != 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_images DIRECTORY\n";
    return 2;
  }
  std::filesystem::path directory = argv[1];
  // `bazel run` starts the program elsewhere and tells here where the user
  // typed.
  if (const char* typed_in = std::getenv("BUILD_WORKING_DIRECTORY")) {
    directory = typed_in / directory;
  }
  for (const Picture& picture : kPictures) {
    const std::filesystem::path path = directory / picture.file;
    if (!Write(picture, path)) {
      std::cerr << "make_images: cannot write " << path.string() << "\n";
      return 1;
    }
  }
  return 0;
}
