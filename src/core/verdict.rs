//! Did the restart succeed?
