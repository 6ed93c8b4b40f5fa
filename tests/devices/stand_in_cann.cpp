// The few functions of CANN whose answer MindSpore's Ascend plugin uses while it compiles a graph; stand_in.py makes
// all others return 0. Compiled with the old C++ ABI, as the plugin is. The sizes of CANN's objects (shared pointers
// and the like) are those that the plugin reserves: zero bytes are a valid empty object of each.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace ge {
class StatusFactory {  // asked for the text of an error code
 public:
  static StatusFactory *Instance();
  std::map<uint32_t, std::string> texts;
  char reserve[256];
};
StatusFactory *StatusFactory::Instance() {
  static StatusFactory factory;
  return &factory;
}
}  // namespace ge

extern "C" {
// Where a pointer is made for the caller to hand back, any but null will do.
static char object[1 << 16];
#define MAKES_OBJECT(name) void *name() { return object; }
MAKES_OBJECT(aclCreateTensorDesc) MAKES_OBJECT(aclCreateDataBuffer) MAKES_OBJECT(aclCreateTensor)
MAKES_OBJECT(aclCreateScalar) MAKES_OBJECT(aclCreateIntArray) MAKES_OBJECT(aclCreateTensorList)
MAKES_OBJECT(aclmdlCreateDataset) MAKES_OBJECT(aclmdlCreateDesc) MAKES_OBJECT(aclGetDataBufferAddr)

#define EMPTY_OBJECT(constructor, size) void constructor(void *self) { memset(self, 0, size); }
EMPTY_OBJECT(_ZN2ge12AscendStringC1EPKc, 16)
EMPTY_OBJECT(_ZN2ge5ShapeC1Ev, 16)
EMPTY_OBJECT(_ZN2ge5ShapeC1ERKSt6vectorIlSaIlEE, 16)
EMPTY_OBJECT(_ZN2ge10TensorDescC1Ev, 16)
EMPTY_OBJECT(_ZN2ge10TensorDescC1ERKS0_, 16)
EMPTY_OBJECT(_ZN2ge10TensorDescC1EOS0_, 16)
EMPTY_OBJECT(_ZN2ge10TensorDescC1ENS_5ShapeENS_6FormatENS_8DataTypeE, 16)
EMPTY_OBJECT(_ZN2ge6TensorC1Ev, 16)
EMPTY_OBJECT(_ZN2ge6TensorC1ERKNS_10TensorDescE, 16)
EMPTY_OBJECT(_ZN2ge6TensorC1ERKNS_10TensorDescEPKhm, 16)

// An operator of the graph engine has virtual functions, which the plugin calls. Constructors, and functions that
// return one: the caller names the place, which is also the result.
static void nothing() {}
static void (*virtual_functions[64])();
#define OPERATOR(maker)                                                    \
  void *maker(void *place) {                                               \
    for (auto &function : virtual_functions) function = nothing;           \
    memset(place, 0, 40);                                                  \
    *static_cast<void **>(place) = virtual_functions;                      \
    return place;                                                          \
  }
OPERATOR(_ZN2ge8OperatorC1ERKSs)
OPERATOR(_ZN2ge8OperatorC1ERKSsS2_)
OPERATOR(_ZN2ge8OperatorC2EPKc)
OPERATOR(_ZN2ge8OperatorC2EPKcS2_)
OPERATOR(_ZN2ge8OperatorC2ERKSsS2_)
OPERATOR(_ZN2ge8OperatorC2ERKNS_12AscendStringES3_)
OPERATOR(_ZN2ge15OperatorFactory14CreateOperatorEPKcS2_)
OPERATOR(_ZN2ge15OperatorFactory14CreateOperatorERKSsS2_)

const char *aclrtGetSocName() {
  const char *chosen = getenv("STAND_IN_SOC");
  return chosen ? chosen : "Ascend910B2";
}
int aclrtGetDeviceCount(uint32_t *count) { return *count = 8, 0; }
int aclrtGetMemInfo(int, size_t *free, size_t *total) { return *free = 60ull << 30, *total = 64ull << 30, 0; }
}
