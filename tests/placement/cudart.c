/* The calls of the CUDA runtime that have to say or give something. Memory is that of the host, and nothing computes:
 * enough for onnxruntime to make a session, and to say on which provider each node would run. */
#include <stdlib.h>
#include <string.h>

#include "driver_types.h"

int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
const char *cudaGetErrorString(int error) { return "stub"; }
const char *cudaGetErrorName(int error) { return "stub"; }

int cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = (size_t)8 << 30; return 0; }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = 9; return 0;
        case cudaDevAttrComputeCapabilityMinor: *value = 0; return 0;
        case cudaDevAttrMultiProcessorCount: *value = 132; return 0;
        default: *value = 1024; return 0;
    }
}

int cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "stub");
    found->major = 9;
    found->multiProcessorCount = 132;
    found->warpSize = 32;
    found->totalGlobalMem = (size_t)8 << 30;
    found->maxThreadsPerBlock = 1024;
    found->maxThreadsPerMultiProcessor = 2048;
    found->sharedMemPerBlock = 48 << 10;
    found->sharedMemPerBlockOptin = 227 << 10;
    found->sharedMemPerMultiprocessor = 228 << 10;
    for (int k = 0; k < 3; k++) found->maxGridSize[k] = 65535;
    return 0;
}

int cudaMalloc(void **place, size_t size) {
    *place = aligned_alloc(256, (size + 511) / 256 * 256);
    return 0;
}
int cudaMallocFromPoolAsync(void **place, size_t size, void *pool, void *stream) { return cudaMalloc(place, size); }
int cudaMallocHost(void **place, size_t size) { return cudaMalloc(place, size); }
int cudaHostAlloc(void **place, size_t size, unsigned flags) { return cudaMalloc(place, size); }
int cudaFree(void *place) { free(place); return 0; }
int cudaFreeAsync(void *place, void *stream) { free(place); return 0; }
int cudaFreeHost(void *place) { free(place); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { memcpy(to, from, size); return 0; }
int cudaMemset(void *place, int value, size_t size) { memset(place, value, size); return 0; }
int cudaMemsetAsync(void *place, int value, size_t size, void *stream) { memset(place, value, size); return 0; }

static char handle[64];
int cudaEventCreate(void **made) { *made = handle; return 0; }
int cudaEventCreateWithFlags(void **made, unsigned flags) { *made = handle; return 0; }
int cudaStreamCreate(void **made) { *made = handle; return 0; }
int cudaStreamCreateWithFlags(void **made, unsigned flags) { *made = handle; return 0; }
int cudaMemPoolCreate(void **made, void *properties) { *made = handle; return 0; }
void **__cudaRegisterFatBinary(void *code) { static void *registered; return &registered; }
