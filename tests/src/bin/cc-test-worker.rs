//! The executable that scenarios use as agent and as worker. It contains the remote functions
//! and does nothing by itself.

use cc_tests as _;

fn main() {
    cc_driver::init();
}
