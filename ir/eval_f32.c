/* The ops in single precision. */
#include "ir/eval_int.h"

#include <math.h>

typedef float real;
#define OP_EVAL       op_eval_f32
#define REAL(t)       ((t)->f)
#define MATH(fn)      fn##f
#define HADAMARD_ROWS hadamard_rows_f32
#define ROUND_MAGIC   0x1.8p23f /* adding and subtracting it rounds |x| < 2^22 half to even */
#define ROUND_F16(x)  f16_to_f32(f32_to_f16(x))
#include "ir/eval_ops.h"
