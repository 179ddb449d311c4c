// The arithmetic of area_resize.cu on the host, for tests: the same functions, loops in place of threads.

#include "area_resize.cu"

extern "C" void area_spans(Span *spans, int target, int source, double scale) {
    for (int place = 0; place < target; ++place) spans[place] = area_span(place, source, scale);
}

extern "C" void area_resize(const Byte *source, int pitch, int halvings, const Span *rows, const Span *columns,
                            int box_y, int box_x, Byte *target, int height, int width) {
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x)
            area_pixel(source, pitch, halvings, rows, columns, box_y, box_x, target, width, y, x);
}
