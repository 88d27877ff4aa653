#include "textflag.h"
#include "machine_linux.h"

// The machine. R12 is the op, R13 the header. It uses no stack and returns
// never, so any number of processes and threads may run it in one memory.
#define MACHINE \
loop: \
	MOVQ op_ind(R12), BX \
	MOVQ op_arg0(R12), DI \
	BTQ  $0, BX \
	JCC  a1 \
	MOVQ (DI), DI \
a1: \
	MOVQ op_arg1(R12), SI \
	BTQ  $1, BX \
	JCC  a2 \
	MOVQ (SI), SI \
a2: \
	MOVQ op_arg2(R12), DX \
	BTQ  $2, BX \
	JCC  a3 \
	MOVQ (DX), DX \
a3: \
	MOVQ op_arg3(R12), R10 \
	BTQ  $3, BX \
	JCC  a4 \
	MOVQ (R10), R10 \
a4: \
	MOVQ op_arg4(R12), R8 \
	BTQ  $4, BX \
	JCC  a5 \
	MOVQ (R8), R8 \
a5: \
	MOVQ op_arg5(R12), R9 \
	BTQ  $5, BX \
	JCC  call \
	MOVQ (R9), R9 \
call: \
	MOVQ op_nr(R12), AX \
	CMPQ AX, $-1 \
	JEQ  value \
	CMPQ AX, $-2 \
	JEQ  header \
	SYSCALL \
result: \
	MOVQ  op_out(R12), BX \
	TESTQ BX, BX \
	JEQ   judge \
	MOVQ  AX, (BX) \
judge: \
	CMPQ  AX, $-4095 \
	JCC   failed \
	TESTQ AX, AX \
	JNE   good \
	MOVQ  op_zero(R12), BX \
	TESTQ BX, BX \
	JNE   jump \
good: \
	MOVQ  op_ok(R12), BX \
	TESTQ BX, BX \
	JNE   jump \
	ADDQ  $op_size, R12 \
	JMP   loop \
jump: \
	MOVQ BX, R12 \
	JMP  loop \
value: \
	MOVQ DI, AX \
	JMP  result \
header: \
	MOVQ DI, R13 \
	JMP  good \
failed: \
	MOVQ  op_err(R12), BX \
	TESTQ BX, BX \
	JEQ   stop \
	MOVQ  op_errIs(R12), CX \
	TESTQ CX, CX \
	JEQ   jump \
	ADDQ  AX, CX \
	JEQ   jump \
stop: \
	MOVQ R12, hdr_op(R13) \
	MOVQ AX, hdr_errno(R13) \
	MOVQ hdr_fail(R13), R12 \
	JMP  loop

// func spawn(flags, block uintptr, mask *[2]uint64) (pid uintptr)
TEXT ·spawn(SB), NOSPLIT|NOFRAME, $0-32
	MOVQ flags+0(FP), R8
	MOVQ block+8(FP), R13
	MOVQ mask+16(FP), R9
	LEAQ hdr_size(R13), R12

	// No signal handler of the host may run in the child.
	MOVQ $2, DI           // SIG_SETMASK
	MOVQ R9, SI
	LEAQ 8(R9), DX
	MOVQ $8, R10
	MOVQ $14, AX          // rt_sigprocmask
	SYSCALL

	MOVQ  R8, DI
	MOVQ  R9, BX
	XORL  SI, SI
	XORL  DX, DX
	XORL  R10, R10
	XORL  R8, R8
	MOVQ  $56, AX         // clone
	SYSCALL
	TESTQ AX, AX
	JEQ   loop
	MOVQ  AX, pid+24(FP)

	MOVQ $2, DI
	LEAQ 8(BX), SI
	XORL DX, DX
	MOVQ $8, R10
	MOVQ $14, AX
	SYSCALL
	RET
	MACHINE

// imageText is the text of an init image. It is copied, never called.
TEXT ·imageText(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $imageData, R13
	MOVQ $(imageData+hdr_size), R12
	MACHINE
	// The end, for whoever copies.
	BYTE $0x74; BYTE $0x77; BYTE $0x65; BYTE $0x6e; BYTE $0x64; BYTE $0x21; BYTE $0x0f; BYTE $0x0b

// func imageTextAddr() uintptr
TEXT ·imageTextAddr(SB), NOSPLIT, $0-8
	LEAQ ·imageText(SB), AX
	MOVQ AX, ret+0(FP)
	RET
