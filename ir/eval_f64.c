/* The ops in double precision. */
#include "ir/eval_int.h"

#include <math.h>

typedef double real;
#define OP_EVAL       op_eval_f64
#define REAL(t)       ((t)->d)
#define MATH(fn)      fn
#define HADAMARD_ROWS hadamard_rows_f64
#define ROUND_MAGIC   0x1.8p52 /* adding and subtracting it rounds |x| < 2^51 half to even */
#define ROUND_F16(x)  ev_round_to(DT_F16, x)
#include "ir/eval_ops.h"
