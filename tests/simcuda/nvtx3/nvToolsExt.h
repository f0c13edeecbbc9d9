// nvToolsExt.h - stands in for NVTX's header. Ranges are counted (simcuda.h), per thread as in NVTX.
#ifndef CAIRN_TESTS_SIMCUDA_NVTX3_NVTOOLSEXT_H
#define CAIRN_TESTS_SIMCUDA_NVTX3_NVTOOLSEXT_H

// Both return the level of the range, from 0; negative for a pop without a push.
int nvtxRangePushA(const char *message);
int nvtxRangePop();
void nvtxMarkA(const char *message);

#define nvtxRangePush nvtxRangePushA
#define nvtxMark nvtxMarkA

#endif
