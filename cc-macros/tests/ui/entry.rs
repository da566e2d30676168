#![allow(unused)]

mod blocking {
    #[cc_macros::main]
    fn main() {}
}
mod misnamed {
    #[cc_macros::main]
    async fn start() {}
}
mod generic {
    #[cc_macros::main]
    async fn main<T>(driver: T) {}
}
mod method {
    #[cc_macros::main]
    async fn main(self) {}
}
mod arguments {
    #[cc_macros::main]
    async fn main(driver: Driver, arguments: Vec<String>) {}
}
mod options {
    #[cc_macros::main(threads = 2)]
    async fn main() {}
}
mod not_a_function {
    #[cc_macros::main]
    struct Main;
}

fn main() {}
