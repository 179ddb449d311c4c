// A CUDA driver without a GPU, for tests: one device whose memory is the host's. Copies, streams, events, graphs and
// the two kernels of area_resize.cu do what they should; everything else of cuda.h is there and refuses
// (tests/fake_gpu/__init__.py adds it). What is queued runs at once, or, while a graph is recorded, when it is launched.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <vector>

#include "area_resize.cu"

typedef unsigned long long Pointer;
typedef std::vector<std::function<void()>> Recording;

static int context, integrated = 1, refuses_capture = 0;
static long live = 0, captures = 0;
static thread_local std::vector<void *> current;
static Recording *recording = nullptr;

static void queue(std::function<void()> work) {
    if (recording) recording->push_back(work);
    else work();
}

static void *take(size_t bytes) {
    ++live;
    return aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
}

static int give(void *memory) {
    --live;
    free(memory);
    return 0;
}

static void resize(const Byte *source, int pitch, int halvings, const Span *rows, const Span *columns, int box_y,
                   int box_x, Byte *target, int height, int width) {
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x)
            area_pixel(source, pitch, halvings, rows, columns, box_y, box_x, target, width, y, x);
}

extern "C" {

// --- knobs and gauges of the tests

void fake_integrated(int yes) { integrated = yes; }
void fake_refuse_capture(int yes) { refuses_capture = yes; }
long fake_live() { return live; }
long fake_captures() { return captures; }
void fake_queue(void (*work)(int), int number) { queue([=] { work(number); }); }

// --- device and context

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int) { return strncpy(name, "pretended Orin", length), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = (size_t)8 << 30, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? integrated : 1;
    return 0;
}
int cuDeviceComputeCapability(int *major, int *minor, int) { return *major = 8, *minor = 7, 0; }
int cuDevicePrimaryCtxRetain(void **found, int) { return *found = &context, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxPushCurrent_v2(void *pushed) { return current.push_back(pushed), 0; }
int cuCtxPopCurrent_v2(void **popped) {
    if (current.empty()) return 201;
    if (popped) *popped = current.back();
    return current.pop_back(), 0;
}
int cuCtxGetCurrent(void **found) { return *found = current.empty() ? nullptr : current.back(), 0; }
int cuCtxSetCurrent(void *set) {
    if (!current.empty()) current.pop_back();
    if (set) current.push_back(set);
    return 0;
}
int cuCtxGetDevice(int *device) { return *device = 0, current.empty() ? 201 : 0; }
int cuCtxGetApiVersion(void *, unsigned *version) { return *version = 13000, 0; }
int cuCtxSynchronize() { return current.empty() ? 201 : 0; }
int cuGetErrorString(int, const char **said) { return *said = "refused by the pretended driver", 0; }
int cuGetErrorName(int, const char **name) { return *name = "CUDA_ERROR_PRETENDED", 0; }

// --- memory

int cuMemGetInfo_v2(size_t *free_, size_t *total) { return *free_ = *total = (size_t)8 << 30, 0; }
int cuMemAlloc_v2(Pointer *found, size_t bytes) { return *found = (uintptr_t)take(bytes), current.empty() ? 201 : 0; }
int cuMemFree_v2(Pointer memory) { return give((void *)(uintptr_t)memory); }
int cuMemHostAlloc(void **found, size_t bytes, unsigned) { return *found = take(bytes), current.empty() ? 201 : 0; }
int cuMemFreeHost(void *memory) { return give(memory); }
int cuMemHostGetDevicePointer_v2(Pointer *found, void *host, unsigned) { return *found = (uintptr_t)host, 0; }
int cuMemcpyHtoD_v2(Pointer to, const void *from, size_t bytes) { return memcpy((void *)to, from, bytes), 0; }
int cuMemcpyDtoH_v2(void *to, Pointer from, size_t bytes) { return memcpy(to, (void *)from, bytes), 0; }
int cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *) {
    return queue([=] { memcpy((void *)to, from, bytes); }), 0;
}
int cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *) {
    return queue([=] { memcpy(to, (void *)from, bytes); }), 0;
}

// --- streams, events, graphs

int cuStreamCreate(void **stream, unsigned) { return *stream = take(1), 0; }
int cuStreamDestroy_v2(void *stream) { return give(stream); }
int cuStreamSynchronize(void *) { return recording ? 900 : 0; }
int cuStreamQuery(void *) { return 0; }
int cuStreamBeginCapture_v2(void *, int) {
    if (refuses_capture) return 801;
    return recording = new Recording, ++live, ++captures, 0;
}
int cuStreamEndCapture(void *, void **graph) { return *graph = recording, recording = nullptr, 0; }
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    return *executable = new Recording(*(Recording *)graph), ++live, 0;
}
int cuGraphLaunch(void *executable, void *) {
    for (auto &work : *(Recording *)executable) work();
    return 0;
}
int cuGraphExecDestroy(void *executable) { return delete (Recording *)executable, --live, 0; }
int cuGraphDestroy(void *graph) { return delete (Recording *)graph, --live, 0; }

// --- the kernels, by name; their arguments come packed, as pycuda hands them over

int cuModuleLoadDataEx(void **module, const void *image, unsigned, void *, void *) {
    return *module = take(1), memcmp(image, "\177ELF", 4) ? 200 : 0;
}
int cuModuleLoadData(void **module, const void *image) { return cuModuleLoadDataEx(module, image, 0, 0, 0); }
int cuModuleUnload(void *module) { return give(module); }
int cuModuleGetFunction(void **function, void *, const char *name) {
    *function = (void *)(uintptr_t)(!strcmp(name, "area_spans") ? 1 : !strcmp(name, "area_resize") ? 2 : 0);
    return *function ? 0 : 500;
}
int cuFuncSetBlockShape(void *, int, int, int) { return 0; }
int cuFuncSetSharedSize(void *, unsigned) { return 0; }
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned, unsigned block_x, unsigned block_y,
                   unsigned, unsigned, void *, void **, void **extra) {
    struct Spans { Span *spans; int target, source; double scale; };
    struct Resize {
        Byte *source;
        int pitch, halvings;
        Span *rows, *columns;
        int box_y, box_x;
        Byte *target;
        int height, width;
    };
    const size_t bytes = *(size_t *)extra[3];
    if (function == (void *)1) {
        const Spans given = *(Spans *)extra[1];
        if (bytes != sizeof given || grid_x * block_x < (unsigned)given.target) return 1;
        for (int place = 0; place < given.target; ++place)
            given.spans[place] = area_span(place, given.source, given.scale);
        return 0;
    }
    const Resize given = *(Resize *)extra[1];
    if (bytes != sizeof given || grid_x * block_x < (unsigned)given.width || grid_y * block_y < (unsigned)given.height)
        return 1;
    return queue([=] {
        resize(given.source, given.pitch, given.halvings, given.rows, given.columns, given.box_y, given.box_x, given.target,
               given.height, given.width);
    }), 0;
}

}
