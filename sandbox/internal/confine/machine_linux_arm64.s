#include "textflag.h"
#include "machine_linux.h"

// The machine. R19 is the op, R20 the header; see the amd64 one. Built, never run.
#define MACHINE \
loop: \
	MOVD op_ind(R19), R21 \
	MOVD op_arg0(R19), R0 \
	TBZ  $0, R21, a1 \
	MOVD (R0), R0 \
a1: \
	MOVD op_arg1(R19), R1 \
	TBZ  $1, R21, a2 \
	MOVD (R1), R1 \
a2: \
	MOVD op_arg2(R19), R2 \
	TBZ  $2, R21, a3 \
	MOVD (R2), R2 \
a3: \
	MOVD op_arg3(R19), R3 \
	TBZ  $3, R21, a4 \
	MOVD (R3), R3 \
a4: \
	MOVD op_arg4(R19), R4 \
	TBZ  $4, R21, a5 \
	MOVD (R4), R4 \
a5: \
	MOVD op_arg5(R19), R5 \
	TBZ  $5, R21, call \
	MOVD (R5), R5 \
call: \
	MOVD op_nr(R19), R8 \
	CMN  $1, R8 \
	BEQ  result \
	CMN  $2, R8 \
	BEQ  header \
	SVC \
result: \
	MOVD op_out(R19), R21 \
	CBZ  R21, judge \
	MOVD R0, (R21) \
judge: \
	CMN  $4095, R0 \
	BCS  failed \
	CBNZ R0, good \
	MOVD op_zero(R19), R21 \
	CBNZ R21, jump \
good: \
	MOVD op_ok(R19), R21 \
	CBNZ R21, jump \
	ADD  $op_size, R19 \
	B    loop \
jump: \
	MOVD R21, R19 \
	B    loop \
header: \
	MOVD R0, R20 \
	B    good \
failed: \
	MOVD op_err(R19), R21 \
	CBZ  R21, stop \
	MOVD op_errIs(R19), R22 \
	CBZ  R22, jump \
	ADDS R0, R22, R22 \
	BEQ  jump \
stop: \
	MOVD R19, hdr_op(R20) \
	MOVD R0, hdr_errno(R20) \
	MOVD hdr_fail(R20), R19 \
	B    loop

// func spawn(flags, block uintptr, mask *[2]uint64) (pid uintptr)
TEXT ·spawn(SB), NOSPLIT|NOFRAME, $0-32
	MOVD flags+0(FP), R9
	MOVD block+8(FP), R20
	MOVD mask+16(FP), R10
	ADD  $hdr_size, R20, R19

	MOVD $2, R0           // SIG_SETMASK
	MOVD R10, R1
	ADD  $8, R10, R2
	MOVD $8, R3
	MOVD $135, R8         // rt_sigprocmask
	SVC

	MOVD R9, R0
	MOVD ZR, R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD $220, R8         // clone
	SVC
	CBZ  R0, loop
	MOVD R0, pid+24(FP)

	MOVD $2, R0
	ADD  $8, R10, R1
	MOVD ZR, R2
	MOVD $8, R3
	MOVD $135, R8
	SVC
	RET
	MACHINE

// imageText is the text of an init image. It is copied, never called.
TEXT ·imageText(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $imageData, R20
	MOVD $(imageData+hdr_size), R19
	MACHINE
	// The end, for whoever copies.
	WORD $0x6e657774
	WORD $0x0b0f2164

// func imageTextAddr() uintptr
TEXT ·imageTextAddr(SB), NOSPLIT, $0-8
	MOVD $·imageText(SB), R0
	MOVD R0, ret+0(FP)
	RET
