// The few functions of CUDA whose answer MindSpore's GPU plugin uses while it compiles a graph; stand_in.py makes all
// others return 0. The device pretends to be an A100 (compute capability 8.0) with 4 GiB.
#include <cstdint>
#include <cstdlib>
#include <cstring>

extern "C" {
static char object[1 << 16];
static const size_t MEMORY = 4ull << 30;

int cudaGetDeviceCount(int *count) { return *count = 1, 0; }
int cudaMemGetInfo(size_t *free, size_t *total) { return *free = *total = MEMORY, 0; }
int cudaMalloc(void **address, size_t) { return *address = malloc(64 << 20), 0; }  // never written to: nothing runs
int cudaHostAlloc(void **address, size_t size, unsigned) { return *address = malloc(size), 0; }
const char *cudaGetErrorName(int) { return "stand-in"; }
const char *cudaGetErrorString(int) { return "stand-in"; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
  return *value = attribute == 75 ? 8 : attribute == 76 ? 0 : attribute == 16 ? 108 : 1024, 0;  // 75, 76: capability
}
int cudaGetDeviceProperties(char *properties, int) {  // offsets of CUDA 11's cudaDeviceProp
  memset(properties, 0, 700);
  strcpy(properties, "Stand-in A100");
  auto set = [&](int offset, int value) { memcpy(properties + offset, &value, sizeof value); };
  auto set_size = [&](int offset, size_t value) { memcpy(properties + offset, &value, sizeof value); };
  set_size(288, MEMORY), set_size(296, 48 << 10), set(304, 64 << 10), set(308, 32), set(320, 1024);
  set(324, 1024), set(328, 1024), set(332, 64);                  // threads of a block
  set(336, 2147483647), set(340, 65535), set(344, 65535);        // blocks of a grid
  set(360, 8), set(364, 0), set(388, 108);                       // capability, multiprocessors
  return 0;
}

#define MAKES_OBJECT(name) int name(void **made) { return *made = object, 0; }
MAKES_OBJECT(cublasCreate_v2) MAKES_OBJECT(cudnnCreate) MAKES_OBJECT(cudnnCreateActivationDescriptor)
MAKES_OBJECT(cudnnCreateConvolutionDescriptor) MAKES_OBJECT(cudnnCreateDropoutDescriptor)
MAKES_OBJECT(cudnnCreateFilterDescriptor) MAKES_OBJECT(cudnnCreateLRNDescriptor)
MAKES_OBJECT(cudnnCreateOpTensorDescriptor) MAKES_OBJECT(cudnnCreatePoolingDescriptor)
MAKES_OBJECT(cudnnCreateRNNDescriptor) MAKES_OBJECT(cudnnCreateReduceTensorDescriptor)
MAKES_OBJECT(cudnnCreateTensorDescriptor) MAKES_OBJECT(cusolverDnCreate) MAKES_OBJECT(cusparseCreate)
MAKES_OBJECT(cudaStreamCreate) MAKES_OBJECT(cudaStreamCreateWithFlags) MAKES_OBJECT(cudaStreamCreateWithPriority)
MAKES_OBJECT(cudaEventCreate) MAKES_OBJECT(cudaEventCreateWithFlags)
int curandCreateGenerator(void **made, int) { return *made = object, 0; }
}
