// From a camera's frame to the graph's input in one pass: area average, then BGR to RGB.
//
// The arithmetic is that of edge_ad/core/preprocess.py, exact halvings and then cv2.resize(..., INTER_AREA), on uint8,
// operation by operation and in its order, so that a
// station with a GPU sees the pixels that training, calibration and a station without one see. One source, two
// compilers: nvcc for the GPU, with --fmad=false (a fused multiply-add rounds once where OpenCV rounds twice), and the
// host's C++ compiler in tests/edge_ad/cuda, which compare it with OpenCV.

#ifdef __CUDACC__
#define DEVICE static __device__
#else
#include <math.h>
#define DEVICE static inline
#endif

typedef unsigned char Byte;

// What one target pixel covers of the source along one axis: `count` pixels from `first` on. The first and the last
// may be covered in part; the weights of all add up to 1. Of a single pixel, `head` is the weight.
struct Span {
    int first, count;
    float head, body, tail;
};

// OpenCV takes less than a thousandth of a pixel for none.
#define NOTHING 1e-3

DEVICE Span area_span(int place, int source, double scale) {
    const double begin = place * scale, end = begin + scale;
    const double covered = fmin(scale, source - begin);
    const int whole_end = (int)fmin(floor(end), source - 1.0);
    const int whole_begin = (int)fmin(ceil(begin), (double)whole_end);
    const bool head = whole_begin - begin > NOTHING, tail = end - whole_end > NOTHING;
    Span span;
    span.first = whole_begin - head;
    span.count = whole_end - whole_begin + head + tail;
    span.body = (float)(1.0 / covered);
    span.tail = tail ? (float)(fmin(fmin(end - whole_end, 1.0), covered) / covered) : span.body;
    span.head = head ? (float)((whole_begin - begin) / covered) : span.count == 1 ? span.tail : span.body;
    return span;
}

DEVICE float area_weight(const Span span, int k) {
    return k == 0 ? span.head : k == span.count - 1 ? span.tail : span.body;
}

DEVICE Byte area_round(float value) {
    return (Byte)fminf(fmaxf(rintf(value), 0.0f), 255.0f);  // ties to even, as cvRound
}

// A pixel of the source after so many halvings, each rounded to a byte, ties up: `corner` is the first of the
// 2^halvings x 2^halvings that it covers.
DEVICE int area_half(int a, int b, int c, int d) { return (a + b + c + d + 2) >> 2; }

DEVICE int area_half1(const Byte *p, int pitch) { return area_half(p[0], p[3], p[pitch], p[pitch + 3]); }

DEVICE int area_half2(const Byte *p, int pitch) {
    const Byte *below = p + 2 * pitch;
    return area_half(area_half1(p, pitch), area_half1(p + 6, pitch), area_half1(below, pitch),
                     area_half1(below + 6, pitch));
}

DEVICE int area_half3(const Byte *p, int pitch) {
    const Byte *below = p + 4 * pitch;
    return area_half(area_half2(p, pitch), area_half2(p + 12, pitch), area_half2(below, pitch),
                     area_half2(below + 12, pitch));
}

DEVICE int area_fetch(const Byte *corner, int pitch, int halvings) {
    switch (halvings) {
        case 0: return *corner;
        case 1: return area_half1(corner, pitch);
        case 2: return area_half2(corner, pitch);
        default: return area_half3(corner, pitch);  // MAX_HALVINGS of preprocess.py
    }
}

// Boxes of whole pixels: integer sums. OpenCV has a case of its own for 2 x 2, which rounds ties up.
DEVICE Byte area_box(const Byte *corner, int pitch, int halvings, int box_y, int box_x) {
    int sum = 0;
    for (int j = 0; j < box_y; ++j)
        for (int i = 0; i < box_x; ++i) sum += area_fetch(corner + ((j * pitch + 3 * i) << halvings), pitch, halvings);
    return box_y == 2 && box_x == 2 ? (Byte)((sum + 2) >> 2) : area_round(sum * (1.0f / (box_y * box_x)));
}

// Any other: each row is summed first, then the rows.
DEVICE Byte area_weighted(const Byte *source, int pitch, int halvings, const Span row, const Span column) {
    float sum = 0.0f;
    for (int j = 0; j < row.count; ++j) {
        const Byte *pixel = source + (((row.first + j) * pitch + 3 * column.first) << halvings);
        float along = 0.0f;
        for (int i = 0; i < column.count; ++i)
            along += area_fetch(pixel + ((3 * i) << halvings), pitch, halvings) * area_weight(column, i);
        sum += along * area_weight(row, j);
    }
    return area_round(sum);
}

// One pixel of the target: source is (rows, columns, 3) BGR with `pitch` bytes a row, target (height, width, 3) RGB,
// contiguous. The spans and the boxes are of the halved source; box_y and box_x are 0 where one is no whole number.
DEVICE void area_pixel(const Byte *source, int pitch, int halvings, const Span *rows, const Span *columns, int box_y,
                       int box_x, Byte *target, int width, int y, int x) {
    for (int channel = 0; channel < 3; ++channel) {
        const Byte *plane = source + channel;
        target[3 * (y * width + x) + 2 - channel] =
            box_x ? area_box(plane + ((y * box_y * pitch + 3 * x * box_x) << halvings), pitch, halvings, box_y, box_x)
                  : area_weighted(plane, pitch, halvings, rows[y], columns[x]);
    }
}

#ifdef __CUDACC__

// The spans of one axis; launched once for a size of frame.
extern "C" __global__ void area_spans(Span *spans, int target, int source, double scale) {
    const int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place < target) spans[place] = area_span(place, source, scale);
}

extern "C" __global__ void area_resize(const Byte *source, int pitch, int halvings, const Span *rows,
                                       const Span *columns, int box_y, int box_x, Byte *target, int height, int width) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < width && y < height) area_pixel(source, pitch, halvings, rows, columns, box_y, box_x, target, width, y, x);
}

#endif
