"""`tandemrec devices`: device methods over the same lists: accuracy, bytes, operations, milliseconds."""
