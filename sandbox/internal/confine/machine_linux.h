// The layout of an op, in bytes; see machine_linux.go.
#define op_nr     0
#define op_arg0   8
#define op_arg1   16
#define op_arg2   24
#define op_arg3   32
#define op_arg4   40
#define op_arg5   48
#define op_out    56
#define op_ok     64
#define op_zero   72
#define op_err    80
#define op_errIs  88
#define op_ind    96
#define op_size   104

// The layout of a header.
#define hdr_op    0
#define hdr_errno 8
#define hdr_fail  16
#define hdr_size  64

// Where the data of an init image lies; see image_linux.go.
#define imageData 0x410000
